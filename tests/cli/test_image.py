import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from nacre.cli import exits
from nacre.model.images import ImageDefaults, Visibility
from nacre.model.operations import OperationState
from support.api_stub import ApiStub
from support.command_line import Run


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    path.write_bytes(b"\x55\xaa" * (1 << 20))
    return path


def test_a_file_is_imported_and_ready(nacre: Run, stub: ApiStub, disk: Path) -> None:
    ran = nacre("image", "import", "debian", str(disk), "--memory", "256MiB")
    assert (ran.code, ran.out) == (0, "debian: ready (2MiB)\n")
    assert ran.err == ""  # progress is for terminals
    assert nacre("image", "list").out.splitlines()[1].split()[0] == "debian"


def test_kernel_and_initrd_are_imported_together(nacre: Run, disk: Path) -> None:
    ran = nacre(
        "image", "import", "tiny", "--kernel", str(disk), "--initrd", str(disk), "--kernel-args", "console=ttyS0 quiet"
    )
    assert ran.code == 0
    shown = json.loads(nacre("image", "show", "tiny", "-o", "json").out)
    assert [artifact["role"] for artifact in shown["artifacts"]] == ["kernel", "initrd"]
    assert shown["kernel_args"] == "console=ttyS0 quiet"


def test_an_import_that_broke_off_goes_on_when_repeated(
    nacre: Run, stub: ApiStub, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacre.client.images.TRIES_WITHOUT_PROGRESS", 0)
    stub.break_uploads_after = [1 << 20]
    assert nacre("image", "import", "debian", str(disk)).code == exits.UNREACHABLE
    ran = nacre("image", "import", "debian", str(disk))
    assert (ran.code, ran.out) == (0, "debian: ready (2MiB)\n")
    assert "going on" in ran.err


def test_another_file_under_a_name_that_is_taken_is_a_conflict(nacre: Run, disk: Path, tmp_path: Path) -> None:
    assert nacre("image", "import", "debian", str(disk)).code == 0
    other = tmp_path / "other.raw"
    other.write_bytes(b"x" * 512)
    assert nacre("image", "import", "debian", str(other)).code == exits.CONFLICT


@pytest.mark.parametrize(
    "words",
    [
        ("none.raw",),
        (".",),
        (),
        ("--initrd", "disk.raw"),
        ("disk.raw", "--path", "/x"),
        ("ftp://example.org/x",),
        ("disk.raw", "--sha256", "00"),
        ("disk.raw", "--sha256", "0" * 64),
    ],
)
def test_what_cannot_be_imported_is_refused_before_anything_is_sent(
    nacre: Run, stub: ApiStub, disk: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(disk.parent)
    ran = nacre("image", "import", "debian", *words)
    assert ran.code == exits.USAGE
    assert len(ran.err.splitlines()) == 2
    assert stub.requests == []


def test_an_image_is_made_of_a_checkpoint(nacre: Run, stub: ApiStub) -> None:
    assert nacre("vm", "create", "web", "--image", "tiny").code == 0
    ran = nacre(
        "image", "create", "golden", "--from-checkpoint", "web/early", "--memory", "1GiB", "--label", "tier=gold"
    )
    assert (ran.code, ran.out.split(":")[0]) == (0, "golden")
    (sent,) = stub.created_images
    assert (sent.checkpoint, sent.name, sent.artifacts) == ("web/early", "golden", ())
    assert (sent.defaults.memory_bytes, sent.labels) == (1 << 30, {"tier": "gold"})
    assert "web/early" in nacre("image", "show", "golden").out


def test_a_checkpoint_that_is_not_there_is_told_and_one_must_be_named(nacre: Run) -> None:
    assert nacre("image", "create", "golden", "--from-checkpoint", "nobody/early").code == exits.NOT_FOUND
    assert nacre("image", "create", "golden").code == exits.USAGE


def test_an_import_stays_until_the_image_is_ready_unless_it_is_told_not_to(nacre: Run, stub: ApiStub) -> None:
    stub.ends_as = {"state": OperationState.RUNNING}
    url = "http://127.0.0.1:1/disk.raw"
    assert nacre("image", "import", "one", url, "--timeout", "200ms").code == exits.TIMEOUT
    assert nacre("image", "import", "two", url, "--no-wait").code == exits.OK


def test_labels_visibility_and_defaults_of_an_image_are_changed(nacre: Run, stub: ApiStub) -> None:
    before = ImageDefaults(cpus=2, disk_bytes=1 << 30)
    stub.add_image("debian", labels={"old": "1", "tier": "web"}, defaults=before)
    words = ("--label", "old-", "--label", "os=linux", "--memory", "256MiB", "--clear", "disk", "--public")
    ran = nacre("image", "update", "debian", *words)
    assert (ran.code, ran.out, ran.err) == (0, "debian: changed\n", "")
    image = stub.image("debian")
    assert image is not None
    assert image.labels == {"tier": "web", "os": "linux"}
    assert image.defaults == ImageDefaults(cpus=2, memory_bytes=256 << 20)
    assert image.visibility is Visibility.PUBLIC
    assert nacre("image", "update", "debian", "--private").code == 0
    assert stub.image("debian") == replace(image, visibility=Visibility.PRIVATE)


@pytest.mark.parametrize("words", [(), ("--memory", "1"), ("--cpus", "2", "--clear", "cpus"), ("--clear", "colour")])
def test_what_changes_nothing_of_an_image_is_refused(nacre: Run, stub: ApiStub, words: tuple[str, ...]) -> None:
    stub.add_image("debian")
    ran = nacre("image", "update", "debian", *words)
    assert (ran.code, len(ran.err.splitlines())) == (exits.USAGE, 2)
    assert not any(method == "PATCH" for method, *_ in stub.requests)

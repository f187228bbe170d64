"""The tiny image: its archive, its sources, and that the same input gives the same bytes."""

import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from nacre import tiny
from nacre.errors import NacreError, UnsupportedError
from nacre.tiny import initramfs, modules, packages

IMAGE_FILES = {
    "init",
    "bin/busybox",
    "bin/sh",
    "etc/rc",
    "etc/inittab",
    "sbin/poweroff",
    "www/cgi-bin/info",
    "dev/console",
}


def listing(archive: bytes, tmp_path: Path) -> dict[str, str]:
    """What cpio, the reference, reads in an archive: name -> mode."""
    plain = zlib.decompress(archive, 31)
    done = subprocess.run(["cpio", "-itv"], input=plain, capture_output=True, check=True)
    lines = [line.split() for line in done.stdout.decode().splitlines()]
    return {(words[words.index("->") - 1] if "->" in words else words[-1]): words[0] for words in lines}


def test_an_archive_is_read_by_cpio_with_parents_modes_links_and_devices(tmp_path):
    archive = initramfs.pack(
        {
            "a/b/program": initramfs.file(b"#!/bin/sh\n", executable=True),
            "a/b/text": initramfs.file(b"odd"),
            "a/link": initramfs.link("b/program"),
            "dev/console": initramfs.character_device(5, 1),
            "empty": initramfs.directory(),
        }
    )
    assert listing(archive, tmp_path) == {
        "a": "drwxr-xr-x",
        "a/b": "drwxr-xr-x",
        "a/b/program": "-rwxr-xr-x",
        "a/b/text": "-rw-r--r--",
        "a/link": "lrwxrwxrwx",
        "dev": "drwxr-xr-x",
        "dev/console": "crw-------",
        "empty": "drwxr-xr-x",
    }


def test_an_archive_does_not_depend_on_the_order_or_the_time():
    one = {"a": initramfs.file(b"1"), "b": initramfs.file(b"2")}
    assert initramfs.pack(one) == initramfs.pack(dict(reversed(one.items())))


def test_modprobe_s_answer_is_read():
    text = "insmod /m/virtio_ring.ko \nbuiltin virtio\ninsmod /m/virtio_net.ko napi_tx=0\n\n"
    assert modules.parse(text) == [Path("/m/virtio_ring.ko"), Path("/m/virtio_net.ko")]


def test_static_programs_are_told_from_dynamic_ones():
    assert not packages.is_static(Path(sys.executable).resolve().read_bytes())
    assert not packages.is_static(b"#!/bin/sh")
    if busybox := packages.installed_busybox():
        assert packages.is_static(busybox.read_bytes())


def test_the_best_installed_kernel_is_made_for_clouds_then_the_newest(tmp_path):
    (tmp_path / "boot").mkdir()
    for release in (
        "6.1.0-9-amd64",
        "6.1.0-10-cloud-amd64",
        "6.1.0-9-cloud-amd64",
        "7.0.0-homemade",
        "6.8.0-1-generic",
    ):
        (tmp_path / "boot" / f"vmlinuz-{release}").touch()
        (tmp_path / "lib/modules" / release).mkdir(parents=True)
        if release != "6.8.0-1-generic":
            (tmp_path / "lib/modules" / release / "modules.dep").touch()
    assert packages.installed_kernel(tmp_path).release == "6.1.0-10-cloud-amd64"
    assert packages.installed_kernel(tmp_path / "boot") is None


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz", ".ko.gz", ".ko.zst"])
def test_compressed_modules_are_unpacked(tmp_path, suffix):
    path = tmp_path / f"some{suffix}"
    (tmp_path / "some.ko").write_bytes(b"module")
    if suffix != ".ko":
        packer = {".ko.xz": "xz", ".ko.gz": "gzip", ".ko.zst": "zstd"}[suffix]
        subprocess.run([packer, "-qk", str(tmp_path / "some.ko")], check=True)
    assert modules._content(path) == b"module"
    assert modules._plain_name(path) == "some.ko"


@pytest.mark.host
def test_the_image_is_small_complete_and_the_same_each_time(tmp_path):
    lines = []
    first = tiny.build(tmp_path / "one", lines.append)
    second = tiny.build(tmp_path / "two")
    assert first.initrd.read_bytes() == second.initrd.read_bytes()
    assert first.kernel.read_bytes() == second.kernel.read_bytes()
    assert first.initrd.stat().st_size < 5e6
    assert first.kernel_args.startswith("console=ttyS0")
    names = listing(first.initrd.read_bytes(), tmp_path)
    assert names.keys() >= IMAGE_FILES
    assert names["sbin/poweroff"] == "-rwxr-xr-x"
    assert any(name.endswith("-virtio_net.ko") for name in names)
    assert lines[0].startswith("kernel ")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["initrd", "kernel"]


@pytest.mark.host
def test_a_machine_without_a_kernel_downloads_one_and_keeps_it(tmp_path, monkeypatch):
    """The path of a fresh machine. Its second build needs no download."""
    lines = []
    try:
        image = tiny.build(tmp_path / "out", lines.append, cache=tmp_path / "cache", installed=False)
    except NacreError as error:
        pytest.skip(f"no packages to be had here: {error.message}")
    assert any(line.startswith("downloading linux-") for line in lines)
    lines.clear()
    again = tiny.build(tmp_path / "out2", lines.append, cache=tmp_path / "cache", installed=False)
    assert not any(line.startswith("downloading") for line in lines)
    assert image.initrd.read_bytes() == again.initrd.read_bytes()
    assert not list((tmp_path / "cache").glob("unpacking-*"))


@pytest.mark.host
def test_a_busybox_without_what_the_guest_needs_is_refused(tmp_path, monkeypatch):
    lame = tmp_path / "busybox"
    lame.write_text("#!/bin/sh\necho sh\n")
    lame.chmod(0o755)
    monkeypatch.setattr(packages, "installed_busybox", lambda: lame)
    with pytest.raises(NacreError) as caught:
        tiny.build(tmp_path / "out")
    assert caught.value.code == "busybox_incomplete"
    assert "udhcpc" in caught.value.message


def test_another_architecture_is_refused_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(UnsupportedError) as caught:
        tiny.build(tmp_path)
    assert caught.value.hint


def test_a_tool_that_fails_is_quoted_and_one_that_is_missing_named(tmp_path):
    with pytest.raises(NacreError) as caught:
        packages.run(["ls", str(tmp_path / "nothing")])
    assert caught.value.code == "tool_failed"
    with pytest.raises(NacreError) as caught:
        packages.tool("no-such-tool")
    assert caught.value.code == "tool_missing"


@pytest.mark.host
def test_the_command_line_builds_and_says_what(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "nacre.tiny", "--output", str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"initrd: {tmp_path}/initrd" in done.stdout

"""Files under allowed folders, and all the ways out of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nacre.errors import InvalidInputError, NacreError
from nacre.lib.rooted import open_under


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "allowed"
    (root / "deep" / "er").mkdir(parents=True)
    (root / "disk.img").write_bytes(b"top")
    (root / "deep" / "er" / "disk.img").write_bytes(b"deep")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


def content(roots: list[Path], path: Path | str) -> bytes:
    fd = open_under(roots, str(path))
    try:
        return os.read(fd, 100)
    finally:
        os.close(fd)


def test_files_under_an_allowed_folder_are_opened(root: Path) -> None:
    assert content([root], root / "disk.img") == b"top"
    assert content([Path("/nowhere"), root], root / "deep" / "er" / "disk.img") == b"deep"


def test_every_way_out_is_refused_in_words_that_tell_nothing(root: Path, tmp_path: Path) -> None:
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "folder").symlink_to(tmp_path)
    (root / "inside").symlink_to(root / "disk.img")
    os.mkfifo(root / "fifo")
    for path in (
        tmp_path / "secret",
        root / ".." / "secret",
        f"{root}/deep/../../secret",
        root / "link",
        root / "folder" / "secret",
        root / "inside",
        root / "fifo",
        root / "deep",
        root,
        f"{root}/",
        f"{root}x/disk.img",
        "disk.img",
        "",
        "/",
        f"{root}/disk.img\x00",
        root / "missing",
        root / "disk.img" / "below",
        "/etc/passwd",
        "/dev/zero",
    ):
        with pytest.raises(InvalidInputError) as refused:
            content([root], path)
        assert "secret" not in refused.value.message + refused.value.hint
        assert str(tmp_path) not in refused.value.message + refused.value.hint


def test_without_allowed_folders_nothing_may_be_opened(root: Path) -> None:
    with pytest.raises(InvalidInputError) as refused:
        content([], root / "disk.img")
    assert refused.value.code == "image_path_not_allowed"


def test_an_allowed_folder_may_itself_be_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    assert content([tmp_path / "alias"], tmp_path / "alias" / "disk.img") == b"top"


def test_an_allowed_folder_that_is_gone_is_told_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(NacreError) as refused:
        content([tmp_path / "gone"], tmp_path / "gone" / "disk.img")
    assert str(tmp_path) not in refused.value.message + refused.value.hint


def test_no_descriptor_is_left_open(root: Path) -> None:
    # Asked of a process that does nothing else: in this one, what other tests have left may be closed meanwhile.
    paths = [str(path) for path in (root / "missing", root / "deep", root / "disk.img" / "x", "/etc/passwd")]
    script = f"""
import os
from pathlib import Path
from nacre.errors import InvalidInputError
from nacre.lib.rooted import open_under

before = os.listdir("/proc/self/fd")
for path in {paths!r}:
    try:
        open_under([Path({str(root)!r})], path)
    except InvalidInputError:
        continue
    raise AssertionError(path)
os.close(open_under([Path({str(root)!r})], {str(root / "deep" / "er" / "disk.img")!r}))
assert os.listdir("/proc/self/fd") == before
"""
    subprocess.run([sys.executable, "-c", script], check=True)

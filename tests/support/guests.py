"""The tiny image for tests: built once per state of its sources, shared by every worker and every run."""

import fcntl
import hashlib
import os
import tempfile
from functools import cache
from pathlib import Path

import nacre.tiny
from nacre.tiny import TinyImage


@cache
def tiny_image() -> TinyImage:
    """A bootable kernel and initrd. The first caller on this machine builds it, everyone else waits for that."""
    shared = Path(tempfile.gettempdir()) / f"nacre-tests-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    directory = shared / f"tiny-{_state()}"
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        image = TinyImage(kernel=directory / "kernel", initrd=directory / "initrd")
        if image.kernel.exists() and image.initrd.exists():
            return image
        return nacre.tiny.build(directory)


def _state() -> str:
    """Names what the image is made from: our files, and the kernels of this machine."""
    source = Path(nacre.tiny.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path.relative_to(source)).encode() + b"\0" + path.read_bytes())
    digest.update("\n".join(sorted(path.name for path in Path("/boot").glob("vmlinuz-*"))).encode())
    return digest.hexdigest()[:16]

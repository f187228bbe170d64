"""Put the tiny image together: find the sources, pack the initramfs, write both files. Called through `nacre.tiny`."""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nacre.errors import UnavailableError, UnsupportedError
from nacre.tiny import initramfs, modules, packages

KERNEL_ARGS = "console=ttyS0 quiet panic=10"

_GUEST = Path(__file__).with_name("guest")
_DIRECTORIES = ("data", "dev", "proc", "root", "run", "sys", "tmp")
_POWER = ("poweroff", "reboot", "halt")
# What a small busybox may lack, and without which the guest would come up lame.
_APPLETS = frozenset(("acpid", "cttyhack", "httpd", "init", "insmod", "ip", "mke2fs", "poweroff", "udhcpc"))


@dataclass(frozen=True, kw_only=True)
class TinyImage:
    """The two files of the image, and the kernel command line that they are made for."""

    kernel: Path
    initrd: Path
    kernel_args: str = KERNEL_ARGS


def default_cache() -> Path:
    """Return the directory where downloaded packages are kept: in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nacre" / "tiny"


def build(
    output: Path,
    progress: Callable[[str], None] = lambda _: None,
    *,
    cache: Path | None = None,
    installed: bool = True,
) -> TinyImage:
    """Write `kernel` and `initrd` into the directory `output` and return them. May be repeated; the same each time.

    `progress` gets a line per step. `installed=False` uses downloaded packages even if this machine has a kernel.
    Raises NacreError with a hint when something is missing. Blocks for a second, or for as long as a download takes.
    """
    if platform.machine() != "x86_64":
        raise UnsupportedError(
            "architecture_unsupported",
            f"the tiny image is built on x86_64 machines only, this one is {platform.machine()}",
            hint="build it on an x86_64 machine and copy the two files",
        )
    sources = packages.find(cache or default_cache(), progress, installed=installed)
    progress(f"kernel {sources.release}")
    archive = initramfs.pack(_entries(sources))
    output.mkdir(parents=True, exist_ok=True)
    image = TinyImage(kernel=output / "kernel", initrd=output / "initrd")
    _write(image.kernel, sources.kernel.read_bytes())
    _write(image.initrd, archive)
    progress(f"initramfs of {len(archive) / 1e6:.1f} MB")
    return image


def _entries(sources: packages.Sources) -> dict[str, initramfs.Entry]:
    entries = {name: initramfs.directory() for name in _DIRECTORIES}
    entries["dev/console"] = initramfs.character_device(5, 1)
    entries["bin/busybox"] = initramfs.file(sources.busybox.read_bytes(), executable=True)
    entries |= {f"bin/{applet}": initramfs.link("busybox") for applet in _applets(sources.busybox)}
    entries["init"] = initramfs.link("bin/busybox")
    for number, (name, content) in enumerate(modules.ordered(sources)):
        entries[f"lib/modules/{number:02d}-{name}"] = initramfs.file(content)
    for path in sorted(_GUEST.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            entries[str(path.relative_to(_GUEST))] = initramfs.file(content, executable=content.startswith(b"#!"))
    entries |= {f"sbin/{name}": initramfs.link("poweroff") for name in _POWER if name != "poweroff"}
    return entries


def _applets(busybox: Path) -> list[str]:
    found = set(packages.run([str(busybox), "--list"]).split())
    if lacking := _APPLETS - found:
        raise UnavailableError(
            "busybox_incomplete",
            f"this busybox lacks {', '.join(sorted(lacking))}",
            hint="apt-get install busybox-static",
        )
    # Ours in /sbin write the disk back first; busybox's own would ask an init that does not know how.
    return sorted(found - set(_POWER) - {"busybox"})


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)

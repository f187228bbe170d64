"""Where the kernel, its modules and busybox come from: this machine if it has them, else the distribution's packages.

Called by `build`. Packages are downloaded by apt (which checks their signatures) and unpacked into a cache; nothing
is installed and no root is needed. Knows Debian and Ubuntu.
"""

import os
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nacre.errors import UnavailableError, UnsupportedError

# Kernels made for virtual machines first: they are small and start fast.
KERNELS = ("linux-image-cloud-amd64", "linux-image-virtual", "linux-image-generic", "linux-image-amd64")
BUSYBOX = "busybox-static"

_PARTS = re.compile(r"linux-(image|image-unsigned|modules|binary)-\d[\w.+~-]*")
_RELEASE = re.compile(r"vmlinuz-(\d[\w.+~-]*-(?:cloud-amd64|amd64|virtual|generic))")
_STEP_S = 600.0
_INTERPRETER = 3  # PT_INTERP: the program wants a dynamic linker

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the image is made of."""

    kernel: Path
    release: str
    modules: Path
    """The root under which `lib/modules/<release>` lies."""
    busybox: Path


def find(cache: Path, report: Report, *, installed: bool = True) -> Sources:
    """Return the sources, downloading what is missing. `installed=False` ignores what this machine has installed."""
    kernel = (installed_kernel() if installed else None) or downloaded_kernel(cache, report)
    busybox = (installed_busybox() if installed else None) or unpacked(BUSYBOX, cache, report) / "bin/busybox"
    if not busybox.exists():
        busybox = busybox.parents[1] / "usr/bin/busybox"
    return Sources(kernel=kernel.image, release=kernel.release, modules=kernel.root, busybox=busybox)


@dataclass(frozen=True)
class Kernel:
    """A kernel image with the root of its modules."""

    image: Path
    release: str
    root: Path


def installed_kernel(root: Path = Path("/")) -> Kernel | None:
    """Return the best installed distribution kernel that may be read: made for clouds before others, newest first."""
    found = [kernel for kernel in _kernels(root) if (root / "lib/modules" / kernel.release / "modules.dep").exists()]
    return max(found, key=lambda kernel: ("cloud" in kernel.release, _version(kernel.release)), default=None)


def installed_busybox() -> Path | None:
    """Return this machine's busybox if it stands alone (is linked statically)."""
    found = shutil.which("busybox")
    return Path(found) if found and is_static(Path(found).read_bytes()) else None


def is_static(program: bytes) -> bool:
    """Whether a 64-bit ELF program runs without a dynamic linker and libraries."""
    if program[:5] != b"\x7fELF\x02":
        return False
    start, size, count = struct.unpack_from("<Q", program, 32)[0], *struct.unpack_from("<HH", program, 54)
    return all(struct.unpack_from("<I", program, start + size * index)[0] != _INTERPRETER for index in range(count))


def downloaded_kernel(cache: Path, report: Report) -> Kernel:
    """Download and unpack a kernel and its modules (or find them in the cache), with their index of dependencies."""
    parts = _kernel_packages()
    roots = [unpacked(name, cache, report) for name in parts]
    root = roots[0]
    for other in roots[1:]:
        shutil.copytree(other, root, symlinks=True, dirs_exist_ok=True)
    if not (root / "lib/modules").exists() and (root / "usr/lib/modules").exists():
        (root / "lib").symlink_to("usr/lib")
    kernel = next(iter(_kernels(root)), None)
    if kernel is None:
        raise UnsupportedError(
            "no_kernel_in_package", f"there is no kernel image in {', '.join(parts)}", hint="report this as a bug"
        )
    if not (root / "lib/modules" / kernel.release / "modules.dep").exists():
        run([tool("depmod"), "-b", str(root), kernel.release])
    return kernel


def unpacked(package: str, cache: Path, report: Report) -> Path:
    """Return the directory with a package's files, downloading and unpacking it if this version is not in the cache."""
    version = _field(package, "Version")
    if version is None:
        raise _no_package(package)
    target = cache / f"{package}_{version.replace(':', '%')}"
    if target.exists():
        return target
    report(f"downloading {package} {version}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpacking-") as text:
        work = Path(text)
        # As root, apt would drop to a user who may not write here.
        run(
            [tool("apt-get"), "-q", "-o", "APT::Sandbox::User=root", "download", f"{package}={version}"], directory=work
        )
        files = work / "files"
        run([tool("dpkg-deb"), "-x", str(next(work.glob("*.deb"))), str(files)])
        try:
            files.rename(target)
        except OSError:
            if not target.exists():  # else another build was faster, with the same result
                raise
    return target


def tool(name: str) -> str:
    """Return the path of a program of the system, also from where only root looks. Raises UnavailableError."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        package = {"depmod": "kmod", "modprobe": "kmod", "zstd": "zstd"}.get(name, "")
        raise UnavailableError(
            "tool_missing",
            f"{name} is needed to build the tiny image and is not installed",
            hint=f"apt-get install {package}" if package else "the tiny image is built on Debian or Ubuntu",
        )
    return found


def run(argv: list[str], *, directory: Path | None = None) -> str:
    """Run a program and return what it prints. Raises UnavailableError with its last words."""
    try:
        done = subprocess.run(
            argv,
            cwd=directory,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_STEP_S,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        words = str(error.stderr).strip().splitlines() or ["no message"]
        raise UnavailableError(
            "tool_failed",
            f"{Path(argv[0]).name} failed: {words[-1]}",
            hint="check the network and `apt-get update`, then try again",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(
            "tool_timeout",
            f"{Path(argv[0]).name} took longer than {_STEP_S:.0f} s",
            hint="check the network, try again",
        ) from error
    return done.stdout


def _kernel_packages() -> list[str]:
    meta = next((name for name in KERNELS if _field(name, "Version")), None)
    if meta is None:
        raise _no_package(" or ".join(KERNELS))
    found: list[str] = []
    waiting = [meta]
    while waiting:
        name = waiting.pop(0)
        depends = _field(name, "Depends") or ""
        new = [match.group() for match in _PARTS.finditer(depends) if match.group() not in found]
        found += new
        waiting += new
    return found


def _field(package: str, name: str) -> str | None:
    try:
        text = run([tool("apt-cache"), "show", "--no-all-versions", package])
    except UnavailableError as error:
        if error.code == "tool_failed":  # apt's way to say that it does not know the package
            return None
        raise
    match = re.search(rf"^{name}: (.*)$", text, re.MULTILINE)
    return match.group(1) if match else None


def _no_package(name: str) -> UnavailableError:
    return UnavailableError(
        "package_unknown", f"apt knows no package {name}", hint="run `apt-get update`, then try again"
    )


def _kernels(root: Path) -> list[Kernel]:
    found: list[Kernel] = []
    for path in sorted((root / "boot").glob("vmlinuz-*")):
        match = _RELEASE.fullmatch(path.name)
        if match and os.access(path, os.R_OK):
            found.append(Kernel(path, match.group(1), root))
    return found


def _version(release: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", release))

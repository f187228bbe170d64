"""Whether this host can be a node, what is wrong with it, and what to do about that on this very host.

Called by `agent/checking`. `look` collects what is so; `judge` says what that means, and is pure.
"""

import ctypes
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import msgspec

from nacre.agent.host import cgroups, inventory
from nacre.agent.host.cgroups import Layout
from nacre.agent.host.files import text
from nacre.agent.host.network import NetworkWatch
from nacre.model.nodes import Capacity, HypervisorInfo, Inventory, Usage
from nacre.model.units import GIB, format_size

OLDEST_PYTHON = (3, 11)
OLDEST_QEMU, TESTED_QEMU = (6, 2), (7, 2)
FEW_FILES, ENOUGH_FILES = 1024, 8192
LITTLE_DISK, ENOUGH_DISK = 1 * GIB, 20 * GIB
ENOUGH_MEMORY = 2 * GIB
_TIME_ERROR = 5
"""What adjtimex(2) returns while nothing keeps the clock right."""

_PACKAGES: dict[str, dict[str, str]] = {
    "debian": {
        "qemu": "apt-get install qemu-system-x86",
        "qemu-img": "apt-get install qemu-utils",
        "time": "apt-get install chrony",
        "python": "apt-get install python3 python3-venv",
    },
    "fedora": {
        "qemu": "dnf install qemu-system-x86-core",
        "qemu-img": "dnf install qemu-img",
        "time": "dnf install chrony",
        "python": "dnf install python3",
    },
    "arch": {
        "qemu": "pacman -S qemu-system-x86",
        "qemu-img": "pacman -S qemu-img",
        "time": "timedatectl set-ntp true",
        "python": "pacman -S python",
    },
    "macos": {"qemu": "brew install qemu", "qemu-img": "brew install qemu", "python": "brew install python"},
}


class Level(StrEnum):
    """How a check went."""

    OK = "ok"
    WARN = "warn"  # the node works, but not as well as it could
    FAIL = "fail"  # it does not


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What one check found."""

    check: str
    level: Level
    message: str
    hint: str = ""
    """What to do on this host; empty if there is nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Situation:
    """All that the judgement follows from."""

    python: tuple[int, int]
    family: str = "debian"
    """What kind of system: it decides how packages are installed."""
    root: bool = True
    user: str = "root"
    hypervisors: Sequence[HypervisorInfo] = ()
    qemu_img: bool = True
    cpu_flags: frozenset[str] = frozenset()
    nested: bool | None = None
    """Whether guests of this host may have guests with acceleration; None if it cannot be told."""
    groups: Layout = field(default_factory=lambda: Layout(2))
    open_files: int = ENOUGH_FILES
    capacity: Capacity
    usage: Usage
    data: Path
    data_writable: bool = True
    synchronised: bool | None = True
    """Whether something keeps the clock right; None if it cannot be told."""
    network: str = ""
    made_of: Inventory = field(default_factory=Inventory)
    gateways: Mapping[str, str] = field(default_factory=dict[str, str])
    """Addresses of the control plane, and why each cannot be reached; empty if it can."""


def look(
    data: Path, hypervisors: Sequence[HypervisorInfo], gateways: Mapping[str, str], root: Path = Path("/")
) -> Situation:
    """Collect what is so on this host. Blocking; takes milliseconds."""
    there = next(folder for folder in (data, *data.parents) if folder.exists())
    return Situation(
        python=sys.version_info[:2],
        family=family(root),
        root=os.geteuid() == 0,
        user=os.environ.get("USER", "") or str(os.geteuid()),
        hypervisors=hypervisors,
        qemu_img=shutil.which("qemu-img") is not None,
        cpu_flags=_cpu_flags(root),
        nested=_nested(root),
        groups=cgroups.find(),
        open_files=_open_files(),
        capacity=inventory.capacity(there),
        usage=inventory.usage(there),
        data=data,
        data_writable=os.access(there, os.W_OK | os.X_OK),
        synchronised=synchronised(),
        network=NetworkWatch(root).trouble(),
        made_of=inventory.read(root),
        gateways=gateways,
    )


def judge(situation: Situation) -> list[Finding]:
    """Say how each check went, in the order in which they are worth reading. Pure."""
    checks = (_python, _hypervisors, _qemu_img, _acceleration, _nesting, _data, _memory, _files, _groups)
    host = (_clock, _network, _gateways, _huge_pages, _numa)
    return [finding for check in (*checks, *host) for finding in check(situation)]


def family(root: Path) -> str:
    """Return what kind of system this is, by how its packages are installed; empty if we do not know."""
    if platform.system() == "Darwin":
        return "macos"
    words = text(root / "etc/os-release").replace('"', "").splitlines()
    named = " ".join(line.partition("=")[2] for line in words if line.startswith(("ID=", "ID_LIKE=")))
    kinds = {"debian": ("debian", "ubuntu"), "fedora": ("fedora", "rhel", "centos", "suse"), "arch": ("arch",)}
    return next((kind for kind, names in kinds.items() if set(names) & set(named.split())), "")


def synchronised() -> bool | None:
    """Say whether something keeps this host's clock right, as the kernel knows it. None where it does not tell."""
    if platform.system() != "Linux":
        return None
    answer = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(1024)))  # modes = 0: only asks
    return None if answer < 0 else answer != _TIME_ERROR


# The checks


def _python(now: Situation) -> Iterator[Finding]:
    version = f"Python {now.python[0]}.{now.python[1]}"
    if now.python >= OLDEST_PYTHON:
        yield _ok("python", version)
    else:
        yield _fail("python", f"{version} is too old", f"install 3.11 or newer: {_package(now, 'python')}")


def _hypervisors(now: Situation) -> Iterator[Finding]:
    if not now.hypervisors:
        yield _fail("hypervisor", "no hypervisor is configured", "name one in `hypervisors`, such as qemu")
    for each in now.hypervisors:
        version = _version(each.version)
        if not each.available:
            yield _fail(each.name, each.reason.partition(";")[0], _package(now, each.name))
        elif each.name == "qemu" and version < OLDEST_QEMU:
            yield _fail("qemu", f"QEMU {each.version} is too old", "install 7.2 or newer, as in Debian 12")
        elif each.name == "qemu" and version < TESTED_QEMU:
            yield _warn(
                "qemu", f"QEMU {each.version} is older than what is tested", "use 7.2 or newer, as in Debian 12"
            )
        else:
            yield _ok(each.name, f"{each.name} {each.version}".strip())


def _qemu_img(now: Situation) -> Iterator[Finding]:
    if now.qemu_img:
        yield _ok("qemu-img", "qemu-img is there")
    elif any(each.name == "qemu" for each in now.hypervisors):
        hint = f"{_package(now, 'qemu-img')}; without it machines with disks do not start"
        yield _fail("qemu-img", "qemu-img is not installed", hint)


def _acceleration(now: Situation) -> Iterator[Finding]:
    for each in now.hypervisors:
        if each.name != "qemu" or not each.available:
            continue
        if each.accelerator and each.accelerator != "tcg":
            yield _ok("acceleration", f"{each.accelerator}, proven on this host")
        else:
            yield _warn("acceleration", f"none, so machines are slow: {each.reason}", _how_to_accelerate(now, each))


def _how_to_accelerate(now: Situation, qemu: HypervisorInfo) -> str:
    if now.family == "macos":
        return "run the agent on Linux with KVM for fast x86 machines"
    if "may not open" in qemu.reason:
        return f"usermod -aG kvm {now.user}, then log in again; or run the agent as root"
    if "not proven" in qemu.reason:
        return "it is proven with the first image that has a kernel; or set probe_kernel to a kernel that can be read"
    if "hypervisor" in now.cpu_flags:
        return "this host is a virtual machine: nested virtualisation must be on, and work, where it runs"
    if "has no /dev/kvm" not in qemu.reason:
        return "try a newer kernel or QEMU; until it works, machines are emulated"
    if {"vmx", "svm"} & now.cpu_flags:
        return f"modprobe {'kvm_intel' if 'vmx' in now.cpu_flags else 'kvm_amd'}"
    return "turn on virtualisation (VT-x, AMD-V, SVM) in the firmware of this host"


def _nesting(now: Situation) -> Iterator[Finding]:
    if "hypervisor" in now.cpu_flags:
        yield _ok("nested", "this host is itself a virtual machine")
    elif now.nested is not None:
        yield _ok("nested", f"guests {'can' if now.nested else 'cannot'} have accelerated guests of their own")


def _data(now: Situation) -> Iterator[Finding]:
    free = now.capacity.disk_bytes - now.usage.disk_bytes
    said = f"{format_size(max(0, free))} free for {now.data}"
    if not now.data_writable:
        yield _fail("data", f"{now.data} cannot be written to", "run this as the agent's user, or change data_dir")
    elif free < LITTLE_DISK:
        yield _fail("data", said, "make room, or give data_dir a larger disk")
    elif free < ENOUGH_DISK:
        yield _warn("data", said, "enough for small machines only: give data_dir a larger disk")
    else:
        yield _ok("data", said)


def _memory(now: Situation) -> Iterator[Finding]:
    total = now.capacity.memory_bytes
    said = f"{format_size(total)} in all, {format_size(max(0, total - now.usage.memory_bytes))} free"
    yield (
        _ok("memory", said) if total >= ENOUGH_MEMORY else _warn("memory", said, "enough for very small machines only")
    )


def _files(now: Situation) -> Iterator[Finding]:
    unlimited = now.open_files < 0
    said = f"{'any number of' if unlimited else now.open_files} open files"
    hint = "raise it: LimitNOFILE=65536 in the service, or `ulimit -n 65536` before the agent starts"
    if unlimited or now.open_files >= ENOUGH_FILES:
        yield _ok("open files", said)
    elif now.open_files >= FEW_FILES:
        yield _warn("open files", f"{said}, enough for about {now.open_files // 16} machines", hint)
    else:
        yield _fail("open files", f"only {said}", hint)


def _groups(now: Situation) -> Iterator[Finding]:
    if now.groups.reason:
        hint = (
            "run the agent as root" if not now.root else "mount control groups of version 2 for the agent to write to"
        )
        yield _warn("cgroups", f"machines are not held to their memory: {now.groups.reason}", hint)
    else:
        yield _ok("cgroups", f"version {now.groups.version}")


def _clock(now: Situation) -> Iterator[Finding]:
    if now.synchronised is None:
        return
    if now.synchronised:
        yield _ok("clock", "kept right by a time service")
    else:
        yield _warn("clock", "nothing keeps the clock right", f"run a time service: {_package(now, 'time')}")


def _network(now: Situation) -> Iterator[Finding]:
    up = [nic.name for nic in now.made_of.nics if nic.up]
    if now.network:
        yield _warn("network", now.network, "look at `ip link` and `ip route`")
    else:
        yield _ok("network", f"up: {', '.join(up)}" if up else "up")


def _gateways(now: Situation) -> Iterator[Finding]:
    for address, why_not in now.gateways.items():
        if why_not:
            hint = "is the control plane running, and does a firewall let this port through?"
            yield _fail("control plane", f"{address}: {why_not}", hint)
        else:
            yield _ok("control plane", f"{address} answers")


def _huge_pages(now: Situation) -> Iterator[Finding]:
    known = [f"{pages.total} of {format_size(pages.size_bytes)}" for pages in now.made_of.huge_pages if pages.total]
    if now.made_of.huge_pages:
        yield _ok("huge pages", ", ".join(known) or "none set aside")


def _numa(now: Situation) -> Iterator[Finding]:
    if now.made_of.numa:
        yield _ok("numa", ", ".join(f"node {node.id}: CPUs {node.cpus}" for node in now.made_of.numa))


# What they are made of


def _ok(check: str, message: str) -> Finding:
    return Finding(check=check, level=Level.OK, message=message)


def _warn(check: str, message: str, hint: str) -> Finding:
    return Finding(check=check, level=Level.WARN, message=message, hint=hint)


def _fail(check: str, message: str, hint: str) -> Finding:
    return Finding(check=check, level=Level.FAIL, message=message, hint=hint)


def _package(now: Situation, what: str) -> str:
    command = _PACKAGES.get(now.family, {}).get(what)
    if command is None:
        return f"install {what} with this system's packages"
    return command if now.root or now.family == "macos" else f"sudo {command}"


def _version(text_: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text_.split(".")[:2] if part.isdecimal())


def _cpu_flags(root: Path) -> frozenset[str]:
    lines = (line for line in text(root / "proc/cpuinfo").splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())


def _nested(root: Path) -> bool | None:
    for module in ("kvm_intel", "kvm_amd"):
        answer = text(root / f"sys/module/{module}/parameters/nested")
        if answer:
            return answer in {"1", "Y"}
    return None


def _open_files() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return -1 if resource.RLIM_INFINITY in {soft, hard} else soft

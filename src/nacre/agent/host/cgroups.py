"""A control group per machine: its memory bounded, its use counted, its processes together. Called by the executor.

Version 2 where its controllers can be had, else the writable hierarchies of version 1, else none, with the reason kept
for people to see. Machines run without one all the same. Groups of version 2 lie at the top, because what lies under
the agent's own service is ended with it; those of version 1 lie under the agent's own groups.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from nacre.model.ids import VmId
from nacre.model.units import MIB

PARENT = "nacre"
ROOT = Path("/sys/fs/cgroup")
_WANTED = ("memory", "cpu", "pids")
_OVERHEAD = 1024 * MIB
"""What a hypervisor may use besides the guest's memory: translated code, buffers, its own."""
_BUSY_TRIES = 20
_ABANDONED_S = 60.0
"""Another agent of this host may just be making a group: young ones are left alone."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Layout:
    """Where groups are made on this host."""

    version: int
    parents: tuple[Path, ...] = ()
    reason: str = ""
    """Why there are none."""


class Cgroups:
    """The groups of all machines. Blocking; each call is short. Nothing here raises: a group is a comfort."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._complained = False

    def add(self, vm: VmId, pid: int, memory_bytes: int) -> None:
        """Put a machine's process into the machine's group, making it."""
        for parent in self.layout.parents:
            group = parent / vm
            try:
                _make(group)
                _bound_memory(group, self.layout.version, memory_bytes)
                (group / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                self.remove(vm)  # it has ended meanwhile
                return
            except OSError as error:
                self._complain(str(error.strerror))

    def remove(self, vm: VmId) -> None:
        """Remove a machine's group, whose process is gone. May be repeated."""
        for parent in self.layout.parents:
            _remove(parent / vm)
            with contextlib.suppress(OSError):
                parent.rmdir()  # if it was the last one

    def sweep(self) -> None:
        """Remove empty groups that nobody came back for, such as those of agents that are no more."""
        for parent in self.layout.parents:
            for group in parent.glob("vm-*"):
                with contextlib.suppress(OSError):
                    if time.time() - group.stat().st_mtime > _ABANDONED_S:
                        group.rmdir()  # fails if there is a process in it

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("cgroups.failed", reason=reason, next="machines run without a control group")


def find(root: Path = ROOT, own: Path = Path("/proc/self/cgroup")) -> Layout:
    """Find out where this host lets us make groups."""
    if not root.is_dir():
        return Layout(0, reason="this system has no control groups")
    reasons: list[str] = []
    if (root / "cgroup.controllers").exists():
        why_not = _prepare_v2(root)
        if not why_not:
            return Layout(2, (root / PARENT,))
        reasons.append(why_not)
    parents = tuple(parent for name in _WANTED if (parent := _v1_parent(root, name, own)) is not None)
    if parents:
        return Layout(1, parents)
    return Layout(0, reason="; ".join(reasons) or "no hierarchy of control groups can be written to")


def _prepare_v2(root: Path) -> str:
    """Let groups under `root/nacre` have controllers. Return why not, empty if they can."""
    try:
        there = (root / "cgroup.controllers").read_text().split()
        wanted = [name for name in _WANTED if name in there]
        if "memory" not in wanted:
            return "the memory controller is not available"
        words = " ".join(f"+{name}" for name in wanted)
        (root / "cgroup.subtree_control").write_text(words)
        (root / PARENT).mkdir(exist_ok=True)
        (root / PARENT / "cgroup.subtree_control").write_text(words)
    except OSError as error:
        return f"control groups cannot be made: {error.strerror}"
    return ""


def _v1_parent(root: Path, controller: str, own: Path) -> Path | None:
    """Return where groups of this hierarchy go: under the group that we are in ourselves."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    for _, names, path in lines:
        if controller in names.split(","):
            parent = root / controller / path.lstrip("/") / PARENT
            if not parent.parent.is_dir():  # in a container, the path is that of the host
                parent = root / controller / PARENT
            return parent if _writable(parent) else None
    return None


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(exist_ok=True)
    except OSError:
        return False
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


def _make(group: Path) -> None:
    for _ in range(3):
        group.parent.mkdir(exist_ok=True)
        try:
            group.mkdir(exist_ok=True)
        except FileNotFoundError:  # another agent has just removed the empty parent
            continue
        if group.parent.parent.joinpath("cgroup.subtree_control").exists():
            words = group.parent.parent.joinpath("cgroup.subtree_control").read_text().split()
            (group.parent / "cgroup.subtree_control").write_text(" ".join(f"+{word}" for word in words))
        return


def _bound_memory(group: Path, version: int, memory_bytes: int) -> None:
    limit = group / ("memory.max" if version == 2 else "memory.limit_in_bytes")
    if limit.exists() and memory_bytes > 0:
        limit.write_text(str(memory_bytes + memory_bytes // 8 + _OVERHEAD))


def _remove(group: Path) -> None:
    for _ in range(_BUSY_TRIES):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)  # the kernel has not quite let go of the process yet; we are in a thread
        else:
            return
    log.warning("cgroup.stays", group=group.name, next="it is tried again when the machine is deleted")

"""Guards of this host, by what the kernel says, and their leases as a control plane would have them written."""

import os
from pathlib import Path

from nacre.agent.host import leases
from nacre.agent.hypervisors.guarding import PROGRAM, write_lease
from nacre.lib.clock import SystemClock
from nacre.model.vms import VmIntent

LONG_S = 3600.0


def is_guard(words: bytes) -> bool:
    """Whether a command line is that of a guard, or of its child that is about to become a hypervisor."""
    return os.fsencode(PROGRAM) in words.split(b"\0")[:5]


def guard_pids(root: Path) -> list[int]:
    """Every guard of a machine whose files lie under `root`, zombies aside."""
    found: list[int] = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if is_guard(words) and os.fsencode(root) in words and state not in "ZX":
            found.append(int(entry.name))
    return found


def grant(run: Path, vm: VmIntent, seconds: float = LONG_S) -> Path:
    """Give a placement of a machine a lease that lasts so long from now, in the agent's run directory."""
    run.mkdir(exist_ok=True)
    path = leases.file_of(run, vm.id, vm.fence)
    write_lease(path, SystemClock().boottime() + seconds)
    return path

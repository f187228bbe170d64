"""Where the leases of machines are: a file for each placement, beside the machines' folders for sockets.

Outside those folders because they are emptied between lives, and in the agent's folder of what is true until the host
reboots. What is in the files is the business of `hypervisors.guarding`.
"""

from pathlib import Path

from nacre.model.ids import VmId

SUFFIX = ".lease"


def file_of(folder: Path, vm: VmId, fence: int) -> Path:
    """Return where the lease of one placement of a machine is. Another placement of it has another."""
    return folder / f"{vm}.{fence}{SUFFIX}"


def files(folder: Path) -> set[Path]:
    """Return every lease."""
    return set(folder.glob(f"*{SUFFIX}"))


def clear(folder: Path) -> None:
    """Remove the leases of machines that have no sockets here, so of which nothing runs."""
    for path in files(folder):
        if not (folder / path.name.partition(".")[0]).exists():
            path.unlink(missing_ok=True)

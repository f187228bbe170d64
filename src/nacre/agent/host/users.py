"""Users for hypervisors: each machine's process runs as one of its own, which owns that machine's files and no others.

Numbers come from a range that the operator keeps free (`confine_users` in the agent's settings). The first of the range
is no user but the group of all of them, which may read what machines share: images. Used by `vms/confining`.
"""

import os
import shutil
import stat
import sys
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.settings import UserRange
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId

KVM = Path("/dev/kvm")


def obstacle(*folders: Path) -> str:
    """Say why hypervisors cannot have users of their own, with files in these folders; empty if they can."""
    if sys.platform != "linux":
        return "on Linux only"
    if os.geteuid() != 0:
        return "the agent does not run as root"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed (Debian, Ubuntu: apt-get install util-linux)"
    for folder in folders:
        for above in folder.parents:
            if above.exists() and not above.stat().st_mode & stat.S_IXOTH:
                return f"only the owner of {above} may enter it"
    return ""


class Users:
    """The users of one node's machines."""

    def __init__(self, numbers: UserRange, folders: tuple[Path, ...], *, required: bool = False) -> None:
        """`folders` are the agent's own: what is in them may be lent, and nothing else is touched."""
        self.required = required
        """Whether a machine that cannot have a user of its own is not started."""
        self._range = numbers
        self._folders = folders
        self._taken: dict[VmId, int] = {}

    @property
    def group(self) -> int:
        """The group that may read what machines share."""
        return self._range.first

    def remember(self, vm: VmId, user: int) -> None:
        """Take note of a user that is on record."""
        if user:
            self._taken[vm] = user

    def take(self, vm: VmId) -> int:
        """Return a machine's user, which nobody else has. Raises DriverError if there is none left."""
        if vm not in self._taken:
            used = set(self._taken.values())
            free = next((n for n in range(self._range.first + 1, self._range.last + 1) if n not in used), None)
            if free is None:
                raise DriverError(
                    "users_exhausted",
                    "the node has no user left for the machine to run as",
                    hint="widen confine_users in the agent's configuration, or delete machines",
                    failure_class=FailureClass.BLOCKED,
                )
            self._taken[vm] = free
        return self._taken[vm]

    def give_back(self, vm: VmId) -> None:
        """A machine is gone with all its files."""
        self._taken.pop(vm, None)

    def share(self, path: Path) -> None:
        """Let all machines read a file, if it is in a folder of ours. Blocks. Raises OSError."""
        if self._lead(path):
            _allow(path, self.group, stat.S_IRGRP)

    def own(self, path: Path, user: int) -> None:
        """Make a file or folder a machine's own. Blocks. Raises OSError."""
        self._lead(path)
        os.chown(path, user, user, follow_symlinks=False)

    def reclaim(self, path: Path) -> None:
        """Take a file back from the machine that owned it alone until now. Blocks. Raises OSError."""
        if self._range.first < path.stat().st_uid <= self._range.last:
            os.chown(path, os.geteuid(), -1, follow_symlinks=False)

    def enter(self, folder: Path, user: int) -> None:
        """Let a machine reach files of its own in a folder, which stays ours. Blocks. Raises OSError."""
        self._lead(folder)
        os.chown(folder, -1, user, follow_symlinks=False)
        folder.chmod(0o710)

    def _lead(self, path: Path) -> bool:
        """Let machines through the folders of ours that lead to a path. Say whether it is in one."""
        within = [above for above in path.parents if any(f == above or f in above.parents for f in self._folders)]
        for above in within:
            if not self._range.first < above.stat().st_gid <= self._range.last:  # unless it is a machine's own
                _allow(above, self.group, stat.S_IXGRP)
        return bool(within)


def kvm_group(device: Path = KVM) -> tuple[int, ...]:
    """Return the group that may use the accelerator, if there is one."""
    try:
        facts = device.stat()
    except OSError:
        return ()
    return (facts.st_gid,) if facts.st_gid and facts.st_mode & stat.S_IRGRP else ()


def _allow(path: Path, group: int, bit: int) -> None:
    """Let a group do something, unless everybody may."""
    facts = path.stat()
    if facts.st_mode & (bit >> 3):
        return
    if facts.st_gid != group:
        os.chown(path, -1, group)
    if not facts.st_mode & bit:
        path.chmod(stat.S_IMODE(facts.st_mode) | bit)

"""The folder that becomes the root of a machine's Firecracker, made by its jailer. Used by `places`. Blocks.

The jailer copies the binary into it, makes the device nodes, changes its root and its user, and becomes Firecracker.
It does not bring what the machine needs, and refuses a folder in which it has been before. So files are linked into it
here first, and all of it is removed when the process is proven dead.

Whoever changes its user is no longer to die with its parent (prctl(2), PR_SET_PDEATHSIG). So the process of a machine
with a guard is its own user from the beginning, without a jailer: the folder is then not its root, only where it works.
"""

import errno
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import ids
from nacre.agent.hypervisors.firecracker.config import Placed
from nacre.agent.hypervisors.launch import Confinement
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId

_FILES = 4096
"""How many files the process may have open."""


@dataclass(frozen=True)
class Jail:
    """One jail. Whoever has only found it knows no user, and does nothing but look into it and remove it."""

    root: Path
    uid: int = -1
    gid: int = -1
    closed: bool = True
    """Whether the jailer shuts the process in. Otherwise it begins as its user, and only works here."""

    @classmethod
    def of(cls, confinement: Confinement, vm: VmId, binary: Path, *, closed: bool) -> "Jail":
        """Return the jail of a machine, laid out as the jailer does. Raises DriverError."""
        if confinement.jail is None:
            raise DriverError(
                "jail_missing",
                "the machine is to be confined and has no folder for that",
                hint="give the agent a folder for jails, or let the machine run unconfined",
                failure_class=FailureClass.BLOCKED,
            )
        root = confinement.jail / binary.name / ids.machine(vm) / "root"
        return cls(root, confinement.uid, confinement.gid, closed)

    @property
    def base(self) -> Path:
        """What the jailer calls its base folder."""
        return self.root.parents[2]

    def make(self) -> None:
        """Make its folder. What is above it stays ours, so that nobody puts another in its place."""
        kind, own = self.root.parents[1], self.root.parent
        kind.mkdir(parents=True, exist_ok=True)
        own.mkdir()
        for folder in (self.base, kind, own):
            folder.chmod(0o711)  # whatever our umask is: the process's user has to come through
        self.root.mkdir(mode=0o700)
        os.chown(self.root, self.uid, self.gid)

    def give(self, folder: int, name: str) -> None:
        """Make the process's user the owner of something in a folder that is held."""
        os.chown(name, self.uid, self.gid, dir_fd=folder, follow_symlinks=False)

    def lend(self, *paths: Path) -> None:
        """Make the process's user the owner of files that its shell opens, unless it does so as root."""
        for path in paths:
            if not self.closed:
                os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def link(self, placed: Placed, folder: int, name: str) -> None:
        """Show a file of the host to the process. Raises DriverError, OSError."""
        source = placed.source.resolve(strict=True)
        facts = source.stat()
        if placed.own and stat.S_ISBLK(facts.st_mode):
            os.mknod(name, stat.S_IFBLK | 0o600, facts.st_rdev, dir_fd=folder)
            self.give(folder, name)
            return
        if placed.own or facts.st_mode & stat.S_IROTH:
            try:
                os.link(source, name, dst_dir_fd=folder)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                if placed.own:
                    raise _elsewhere() from error
            else:
                if placed.own:
                    self.give(folder, name)
                return
        self._copy(source, folder, name)

    def _copy(self, source: Path, folder: int, name: str) -> None:
        """Of a file that is shared with others, and that the process's user may not read or that is far away."""
        copy = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o400, dir_fd=folder)
        with os.fdopen(copy, "wb") as file, source.open("rb") as original:
            shutil.copyfileobj(original, file)
        self.give(folder, name)

    def command(self, jailer: str, binary: str, name: str) -> list[str]:
        """Return the words that come before those for Firecracker."""
        words = [jailer, "--id", name, "--exec-file", binary, "--uid", str(self.uid), "--gid", str(self.gid)]
        # Version 2 without a group of ours: it stays where the agent puts it.
        words += ["--chroot-base-dir", str(self.base), "--cgroup-version", "2"]
        return [*words, "--resource-limit", f"no-file={_FILES}"]

    def remove(self) -> None:
        """Remove it. The files that were linked into it stay where they were."""
        if self.root.parent.exists():
            shutil.rmtree(self.root.parent)


def _elsewhere() -> DriverError:
    return DriverError(
        "jail_elsewhere",
        "a disk of the machine and its jail are on different filesystems of the node",
        hint="put the agent's folder for jails on the filesystem of its storage",
        failure_class=FailureClass.BLOCKED,
    )

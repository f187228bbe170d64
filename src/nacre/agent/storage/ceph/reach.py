"""How this node reaches a pool of a Ceph cluster: files for the programs that do. Used by the driver `ceph`.

The key is in two of them, in the form that each reader wants, which only the agent may read. It is on no command line.
"""

from dataclasses import dataclass
from pathlib import Path

from nacre.lib.files import write_atomically
from nacre.model.ceph import CephAccess

CONNECT_S = 10
"""How long a program tries to reach a monitor. QEMU does nothing else meanwhile."""


@dataclass(frozen=True, kw_only=True)
class Reach:
    """One pool, and the files that lead to it."""

    pool: str
    """As the cluster calls it."""
    access: CephAccess
    folder: Path

    @property
    def user(self) -> str:
        """As whom."""
        return self.access.user

    @property
    def configuration(self) -> Path:
        """Where the cluster is. Holds no secret."""
        return self.folder / "ceph.conf"

    @property
    def keyring(self) -> Path:
        """The key as Ceph's programs read it."""
        return self.folder / "keyring"

    @property
    def secret(self) -> Path:
        """The key as QEMU reads it: base64 and nothing else."""
        return self.folder / "key"

    def write(self) -> None:
        """Make the files what they should be. Blocks; short. Raises OSError."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        wanted = {
            self.configuration: _configuration(self.access),
            self.keyring: f"[client.{self.access.user}]\n\tkey = {self.access.key}\n",
            self.secret: self.access.key,
        }
        for path, text in wanted.items():
            if not path.exists() or path.read_text() != text:
                write_atomically(path, text.encode())


def _configuration(access: CephAccess) -> str:
    lines = {
        "mon host": ",".join(access.monitors),
        "client mount timeout": str(CONNECT_S),
        "log file": "/dev/null",
        "log to stderr": "false",
    }
    return "".join(["[global]\n", *(f"{key} = {value}\n" for key, value in lines.items())])

"""Where `nacre up` keeps things: folders, generated configuration, who runs, and the lock that lets one run at a time.

Used by `up` and `down`. The configuration is written anew at each start.
"""

import fcntl
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nacre.errors import ConflictError, InvalidInputError
from nacre.lib import files, processes

HEADER = "# Written by `nacre up` at each start; changes do not stay.\n"


class Child(msgspec.Struct, frozen=True, kw_only=True):
    """A process, named without doubt."""

    pid: int
    start_time: int

    def alive(self) -> bool:
        """Whether exactly this process still runs."""
        return processes.is_alive(self.pid, self.start_time)


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """Who runs on a data directory. Valid for one boot of the host."""

    boot_id: str
    supervisor: Child
    url: str
    ready: bool = False
    children: dict[str, Child] = {}


@dataclass(frozen=True)
class DataDir:
    """The places under one data directory. `root` is absolute."""

    root: Path

    @property
    def claim(self) -> Path:
        """The one-time claim of the first start."""
        return self.root / "claim"

    @property
    def join(self) -> Path:
        """What lets the agent of this machine join."""
        return self.root / "join"

    @property
    def record(self) -> Path:
        """Who runs."""
        return self.root / "up.json"

    @property
    def own_log(self) -> Path:
        """What a supervisor in the background says."""
        return self.root / "up.log"

    def config(self, program: str) -> Path:
        """The configuration of `control` or `agent`."""
        return self.root / f"{program}.toml"

    def folder(self, program: str) -> Path:
        """The data directory of `control` or `agent`."""
        return self.root / program

    def log(self, program: str) -> Path:
        """What `control` or `agent` says."""
        return self.root / f"{program}.log"

    def prepare(self) -> None:
        """Make the folders, for their owner only. Raises InvalidInputError.

        Of root's, others may pass through the outer one: hypervisors run as users of their own there, and must reach
        their machines' files. They cannot list it, and what is in it lets nobody else in.
        """
        try:
            if not self.root.exists():
                self.root.mkdir(mode=0o700, parents=True)
                self.root.chmod(0o711 if os.geteuid() == 0 else 0o700)  # whatever the umask
            for folder in (self.folder("control"), self.folder("agent")):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInputError(
                "unusable_data_directory",
                f"{self.root}: {error.strerror}",
                hint="give a folder that you may write to with --data",
                field="data",
            ) from error

    def write_config(self, program: str, values: Mapping[str, str]) -> None:
        """Write the configuration of `control` or `agent`."""
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in values.items()]
        files.write_atomically(self.config(program), (HEADER + "".join(lines)).encode(), mode=0o600)

    def setting(self, program: str, key: str) -> str:
        """Return what was last written into a configuration; empty if nothing was."""
        try:
            found = tomllib.loads(self.config(program).read_text()).get(key, "")
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):
            return ""
        return found if isinstance(found, str) else ""

    def running(self) -> Running | None:
        """Return who ran here last, if that was since the host booted. Its processes may be gone."""
        try:
            found = msgspec.json.decode(self.record.read_bytes(), type=Running)
        except (OSError, msgspec.MsgspecError):
            return None
        return found if found.boot_id == processes.boot_id() else None

    def write_running(self, running: Running) -> None:
        """Note who runs."""
        files.write_atomically(self.record, msgspec.json.encode(running), mode=0o600)

    def lock(self) -> int:
        """Hold the directory for as long as the returned descriptor is open. Raises ConflictError naming the holder."""
        descriptor = os.open(self.root / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            found = self.running()
            holder = f" (pid {found.supervisor.pid})" if found is not None else ""
            raise ConflictError(
                "already_running",
                f"nacre up runs on {self.root} already{holder}",
                hint=f"use it, or stop it with nacre down --data {self.root}",
            ) from error
        return descriptor


def default_root(environment: Mapping[str, str]) -> Path:
    """Where data is kept if nobody says otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/nacre")
    base = environment.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local/share") / "nacre"

"""A real agent process on the fake hypervisor, that works off a desired state on its disk: no control plane needed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nacre.agent.records import Desired, Record, RecordStore
from nacre.lib import processes
from nacre.model.ids import VmId
from nacre.model.vms import VmIntent
from support.guards import LONG_S, grant, guard_pids
from support.intents import IMAGE, KERNEL, node_intent
from support.node import guest_pids
from support.patience import Patience


@dataclass
class AgentProgram:
    """One agent and its directory."""

    root: Path
    settings: dict[str, object] = field(default_factory=dict[str, object])
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    environment: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        for folder in ("data", "data/images", f"data/images/{IMAGE}"):
            (self.root / folder).mkdir(mode=0o700)
        (self.root / "data/images" / IMAGE / "kernel").write_bytes(KERNEL)
        values = {
            "data_dir": str(self.root / "data"),
            "run_dir": str(self.root / "run"),
            "join_file": str(self.root / "join"),
            "hypervisors": ["fake"],
            "node_name": "lone",
        } | self.settings
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.root / "agent.toml"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.root / "agent.log"

    @property
    def records(self) -> RecordStore:
        """Its memory. Write to it only while it does not run."""
        return RecordStore(self.root / "data")

    def want(self, *vms: VmIntent, **changes: object) -> None:
        """Leave a desired state for the next start; `changes` are those of its other fields."""
        intent = msgspec.structs.replace(node_intent(*vms), **changes)
        self.records.save_desired(Desired(digest=f"digest-{time.monotonic_ns()}", intent=intent))

    @property
    def run(self) -> Path:
        """Where its sockets and leases are."""
        return self.root / "run"

    def grant(self, vm: VmIntent, seconds: float = LONG_S) -> Path:
        """Give a machine a lease, as the link would have it written."""
        return grant(self.run, vm, seconds)

    def guards(self) -> list[int]:
        """Its guards, by what the kernel says."""
        return guard_pids(self.root)

    def start(self) -> "AgentProgram":
        """Start it and return when its program runs."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nacre.agent.main", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | self.environment,
            )
        self.starts += 1
        wait_for(lambda: self.said("agent.started") >= self.starts or self.process.poll() is not None, self.tail)  # type: ignore[union-attr]
        return self

    def said(self, event: str) -> int:
        """How often an event is in its log."""
        return self.log.read_text(errors="replace").count(f'"event": "{event}"')

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def terminate(self) -> float:
        """SIGTERM; returns the seconds it took."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        return time.monotonic() - began

    def pids(self) -> list[int]:
        """Its guests, by what the kernel says."""
        return guest_pids(self.root)

    def record(self, vm: VmId) -> Record | None:
        """What is on disk about a machine."""
        try:
            return self.records.load_all().get(vm)
        except FileNotFoundError:
            return None

    def rss_mib(self) -> float:
        """Resident memory."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


@contextmanager
def agent(**settings: object) -> Iterator[AgentProgram]:
    """An agent in a directory of its own, with nothing left afterwards."""
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    program = AgentProgram(root, settings)
    try:
        yield program
    finally:
        if program.process is not None and program.process.poll() is None:
            program.kill()
        for pid in program.guards() + program.pids():
            if processes.start_time(pid) is not None:
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(root, ignore_errors=True)


def wait_for(check: object, why: object = "", timeout: float = 60.0) -> None:
    """Return when `check()` is true."""
    patience = Patience(timeout)
    while not check():  # type: ignore[operator]
        if patience.is_over():
            raise AssertionError(f"not within {timeout} s: {why() if callable(why) else why}")
        time.sleep(0.01)

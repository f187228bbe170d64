"""`nacre up` and `nacre down` with the real programs, and guests of the fake hypervisor."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nacre.cli import exits
from support.platform import eventually, free_port

pytestmark = pytest.mark.timeout(240)


@dataclass
class Place:
    """One data directory and the command line for it."""

    root: Path
    run: Path
    listen: str
    environment: dict[str, str] = field(default_factory=dict)

    def nacre(self, *words: str, code: int = exits.OK) -> str:
        """Run one command; return what it printed on stdout and stderr."""
        ran = subprocess.run(
            [sys.executable, "-m", "nacre.cli.main", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def up(self, *words: str, code: int = exits.OK) -> str:
        """`nacre up` here."""
        return self.nacre("up", "--data", str(self.root), "--listen", self.listen, *words, code=code)

    def down(self, *words: str) -> str:
        """`nacre down` here."""
        return self.nacre("down", "--data", str(self.root), *words)

    def pid(self, who: str) -> int:
        """Of the supervisor, or of one of its programs."""
        running = json.loads((self.root / "up.json").read_text())
        return int((running["supervisor"] if who == "supervisor" else running["children"][who])["pid"])

    def processes(self, wanted: Sequence[str]) -> set[int]:
        """Every process of this data directory whose command line has all these words."""
        found: set[int] = set()
        for entry in Path("/proc").iterdir():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except (OSError, NotADirectoryError):
                continue
            ours = str(self.root) in command or str(self.run) in command
            if entry.name.isdigit() and ours and all(word in command for word in wanted):
                found.add(int(entry.name))
        return found

    def guests(self) -> set[int]:
        """The guests' processes."""
        return self.processes(["fake_guest"])


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    run = Path(tempfile.mkdtemp(prefix="nacre-"))  # the paths of sockets must be short
    listen = f"127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NACRE_")} | {
        "NACRE_CONFIG": str(tmp_path / "config.toml"),
        "NACRE_AGENT_HYPERVISORS": "fake",
        "NACRE_AGENT_RUN_DIR": str(run),
    }
    made = Place(tmp_path / "data", run, listen, environment)
    try:
        yield made
    finally:
        subprocess.run(
            [sys.executable, "-m", "nacre.cli.main", "down", "--data", str(made.root), "--vms", "--timeout", "2s"],
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        shutil.rmtree(run, ignore_errors=True)


def log_in(place: Place) -> None:
    place.nacre("login", f"http://{place.listen}", "--claim-file", str(place.root / "claim"))


def machine(place: Place, folder: Path) -> None:
    disk = folder / "disk.raw"
    disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes(1 << 20))
    place.nacre("image", "import", "small", str(disk))
    place.nacre("vm", "create", "web", "--image", "small", "--hypervisor", "fake", "--wait", "--timeout", "60s")


def test_a_platform_comes_up_and_its_guests_outlive_it(place: Place, tmp_path: Path) -> None:
    said = place.up("--detach")
    assert f"nacre login http://{place.listen} --claim-file {place.root / 'claim'}" in said
    assert (place.root / "claim").stat().st_mode & 0o077 == 0
    assert place.root.stat().st_mode & 0o777 == (0o711 if os.geteuid() == 0 else 0o700)
    open_to_others = {path: mode for path in place.root.rglob("*") if (mode := path.lstat().st_mode & 0o007)}
    assert not open_to_others
    assert (place.root / "claim").read_text().strip() not in said  # only a screen is shown the claim
    log_in(place)
    assert "ready" in place.nacre("node", "list")

    refused = place.up(code=exits.CONFLICT)
    assert f"pid {place.pid('supervisor')}" in refused
    assert f"pid {place.pid('supervisor')}" in place.up("--detach")

    machine(place, tmp_path)
    guests = place.guests()
    assert len(guests) == 1

    agent = place.pid("agent")
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: place.pid("agent") != agent, what="the agent started again")
    eventually(lambda: "ready" in place.nacre("node", "list"), what="the node back")

    os.kill(place.pid("supervisor"), signal.SIGKILL)
    said = place.up("--detach")  # ends what the dead one left, and begins anew
    assert "log in with" in said
    assert len(place.processes(["nacre.agent.main"])) == 1
    assert len(place.processes(["nacre.control.main"])) == 1

    os.kill(place.pid("supervisor"), signal.SIGTERM)
    eventually(lambda: not place.processes(["nacre.control.main"]), what="the control plane gone")
    eventually(lambda: not place.processes(["nacre.agent.main"]), what="the agent gone")
    assert place.guests() == guests
    assert "does not run here" in place.down()
    assert place.guests() == guests
    assert "stopped web" in place.down("--vms")
    assert place.guests() == set()
    assert place.processes([]) == set()


def test_down_stops_everything_of_a_running_platform(place: Place, tmp_path: Path) -> None:
    place.up("--detach")
    log_in(place)
    machine(place, tmp_path)
    said = place.down("--vms", "--timeout", "5s")
    assert "stopped nacre up" in said
    assert "stopped web" in said
    assert place.processes([]) == set()
    assert not (place.root / "up.json").exists()
    assert place.nacre("vm", "list", code=exits.UNREACHABLE)


def test_settings_that_cannot_be_used_end_it_with_the_reason(place: Place) -> None:
    place.environment["NACRE_AGENT_LOG_LEVEL"] = "shouting"
    said = place.up(code=exits.ERROR)
    assert "shouting" in said
    assert "nacre-agent will not come up" in said
    assert "control.listening" not in said  # nothing of those that are well
    assert place.processes([]) == set()
    said = place.up("--detach", code=exits.ERROR)
    assert said.count("nacre-agent will not come up") == 1, "only of this start"
    assert "shouting" in said
    assert place.processes([]) == set()

"""A platform whose programs live on hosts of a lab: replicas of the control plane, nodes with real agents, the witness.

As `platform`, with hosts instead of loopback ports: c0, c1 … on the control network, n1, n2 … on both, and w, where
the recorder listens, on the data network. A node can be cut from the control plane while its guests are still heard.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from support import claimant
from support.netns import Host, Lab
from support.patience import Patience
from support.platform import Platform, Program, eventually
from support.relay import Relay
from support.wallclock import WallClock
from support.witness import Recorder

SHARED = "shared"
"""A folder that all nodes see, in which pools may be."""
API_PORT = 7480
GATEWAY_PORT = 7481
MEMORY = 112 << 20
PATIENCE_S = 180.0
"""How long a test waits for what involves booting guests on a busy machine. Says nothing about what Nacre promises."""
SHORT = {"lease_s": 8.0, "renew_s": 1.0, "heartbeat_s": 1.0, "offline_after_s": 3.0}
"""Settings under which a node is given up soon."""


class Node:
    """One node: a host, its files, its agent."""

    def __init__(self, host: Host, root: Path, index: int) -> None:
        self.host = host
        self.name = host.name
        self.data = root / f"agent-{index}"
        self.run = root / f"run-{index}"
        self.config = root / f"agent-{index}.toml"
        self.clock = WallClock(root / f"clock-{index}")
        self._boot_id = root / f"boot-{index}"
        self.on = True
        self._new_boot()
        self.agent = Program(f"agent-{index}", self._words(), root / f"agent-{index}.log")

    def configure(self, join: str) -> None:
        """Write what an operator would."""
        shared = self.data.parent / SHARED
        values: dict[str, Any] = {"data_dir": str(self.data), "run_dir": str(self.run), "join": join}
        values |= {"node_name": self.name, "pool_roots": [str(shared)]}
        self.config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))

    def guests(self) -> dict[str, list[int]]:
        """The hypervisor processes by the machine that they run."""
        found: dict[str, list[int]] = {}
        for pid in self.host.pids():
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/comm").read_text().startswith("qemu-system"):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    found.setdefault(machine_of(words), []).append(pid)
        return found

    def guards(self) -> list[int]:
        """The processes that hold guests with a lease."""
        return [pid for pid in self.host.pids() if b"/guard.py" in words_of(pid)]

    def others(self) -> list[int]:
        """Every process that is neither the agent, nor a guest, nor its guard."""
        known = {self.agent.pid, *self.guards(), *(pid for pids in self.guests().values() for pid in pids)}
        return [pid for pid in self.host.pids() if pid not in known]

    def power_off(self) -> None:
        """Pull the plug. What is true only until a reboot is gone too."""
        self.on = False
        self.host.power_off()
        self.agent.kill()
        shutil.rmtree(self.run, ignore_errors=True)

    def power_on(self) -> None:
        """The host boots, and its service manager starts the agent."""
        self._new_boot()
        self.host.link("up")
        self.agent.start()
        self.on = True

    def signal(self, number: signal.Signals) -> None:
        """Send the agent a signal, such as SIGSTOP."""
        os.kill(self.agent.pid, number)

    def _words(self) -> list[str]:
        faked = [f"{name}={value}" for name, value in self.clock.environment.items()]
        program = [sys.executable, "-m", "nacre.agent.main", "--config", str(self.config)]
        return self.host.words("env", *faked, *program, boot_id=self._boot_id)

    def _new_boot(self) -> None:
        self._boot_id.write_text(f"{uuid.uuid4()}\n")


class Fleet(Platform):
    """A platform in a lab. Settings are those of the control plane."""

    def __init__(
        self, lab: Lab, *, nodes: int = 3, replicas: int = 1, database: str | None = None, **settings: Any
    ) -> None:
        super().__init__(lab.root, database=database, **settings)
        self.lab = lab
        self.nodes: dict[str, Node] = {}
        self.urls: list[str] = []
        self._relays: list[Relay] = []
        self._hosts = [lab.host(f"c{index}", 10 + index, "control") for index in range(replicas)]
        self._node_count = nodes
        self._numbers = itertools.count()
        self.recorder = Recorder(lab.host("w", 9, "data"))

    def start(self) -> "Fleet":
        """Bring everything up and import the image that claims."""
        self.shared.mkdir(mode=0o711)
        for _ in self._hosts:
            self.add_control()
        self.claim()
        for index in range(1, self._node_count + 1):
            self.add_agent(index)
        self.all_ready()
        image = claimant.claiming_image()
        self.import_image("claiming", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        return self

    @property
    def shared(self) -> Path:
        """The folder that all nodes see."""
        return self.root / SHARED

    def add_control(self) -> Program:
        """Start the next replica on its host."""
        index = len(self.controls)
        host = self._hosts[index]
        directory = self.root / "control"
        directory.mkdir(exist_ok=True)
        config = self.root / f"control-{index}.toml"
        values: dict[str, Any] = {
            "data_dir": str(directory),
            "listen": f"127.0.0.1:{API_PORT}",
            "gateway_listen": f"{host.addresses['control']}:{GATEWAY_PORT}",
            "join_gateways": [f"{each.addresses['control']}:{GATEWAY_PORT}" for each in self._hosts],
            "claim_file": str(self.root / "claim"),
            **self._settings,
        }
        if self._database:
            values["database"] = self._database
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        words = [sys.executable, "-m", "nacre.control.main", "--config", str(config)]
        program = Program(f"control-{index}", host.words(*words), self.root / f"control-{index}.log")
        program.start()
        self.controls.append(program)
        relay = Relay(host, API_PORT)
        self._relays.append(relay)
        self.urls.append(relay.url)
        self.url = self.url or relay.url
        eventually(lambda: self.is_up(index), timeout=60, what=f"{program.name}\n{program.tail()}")
        return program

    def is_up(self, index: int) -> bool:
        """Whether a replica answers."""
        assert self.controls[index].alive(), f"{self.controls[index].name} has ended\n{self.controls[index].tail()}"
        return httpx2.get(self.urls[index] + "/readyz", timeout=2).status_code == 200

    def add_agent(self, index: int) -> Program:
        """Add a node, with an agent that joins."""
        node = Node(self.lab.host(f"n{index}", 20 + index), self.root, index)
        node.data.mkdir()
        node.configure(self.post("/v1/nodes/tokens", {"node_name": node.name})["join"])
        node.agent.start()
        self.nodes[node.name] = node
        self.agents.append(node.agent)
        return node.agent

    def request(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        """One call to the current replica; if that does not answer, the next call goes to the next one."""
        try:
            return super().request(method, path, **kwargs)
        except httpx2.HTTPError:
            self.url = self.urls[(self.urls.index(self.url) + 1) % len(self.urls)]
            raise

    def all_ready(self, timeout: float = 60, *, among: frozenset[str] = frozenset({"ready"})) -> None:
        """Wait until every node is ready, or in one of these states."""

        def left() -> list[str]:
            states = self.states()
            return [f"{name} is {states.get(name)}" for name in self.nodes if states.get(name) not in among]

        try:
            until_none(left, timeout=timeout, what="every node ready")
        except AssertionError:
            self.explain()
            raise

    def explain(self) -> None:
        """Print the ends of all logs."""
        for program in (*self.controls, *self.agents):
            print(f"--- {program.name}\n{program.tail()}", file=sys.stderr)

    def states(self) -> dict[str, str]:
        """The state of every node."""
        return {node["name"]: node["state"] for node in self.get("/v1/nodes")["items"]}

    def everything(self, path: str) -> list[Any]:
        """A list of any length."""
        page = self.get(path)
        found = list(page["items"])
        while page.get("next"):
            page = self.get(path, cursor=page["next"])
            found += page["items"]
        return found

    def machine(self, name: str, *, ha: bool = False, **fields: Any) -> dict[str, Any]:
        """The body of a request for a machine that claims under its name."""
        return {
            "name": name,
            "image": "claiming",
            "memory_bytes": MEMORY,
            "kernel_args": claimant.arguments(name, self.recorder.address),
            "ha": "restart" if ha else "none",
            **fields,
        }

    def create(self, name: str, *, on: str = "", ha: bool = False, **fields: Any) -> None:
        """Create a machine that claims under its name, on a given node if `on` says so."""
        with self.only(on) if on else contextlib.nullcontext():
            self.post("/v1/vms", self.machine(name, ha=ha, **fields))
            if on:
                self.placed(name)

    @contextlib.contextmanager
    def only(self, name: str) -> Iterator[None]:
        """Machines that are placed meanwhile go to this node: the others are cordoned."""
        others = [other for other in self.nodes if other != name and self.states()[other] == "ready"]
        for other in others:
            self.post(f"/v1/nodes/{other}/cordon")
        try:
            yield
        finally:
            for other in others:
                self.post(f"/v1/nodes/{other}/uncordon")

    def placed(self, name: str, *, timeout: float = 30) -> str:
        """Wait until a machine has a node; the node's name."""
        return eventually(lambda: self.where(name), timeout=timeout, what=f"{name} placed")

    def where(self, name: str) -> str:
        """The node of a machine, empty if it has none."""
        node = self.vm(name)["node"]
        return node["name"] if node else ""

    def boot_of(self, name: str, *, other_than: str = "", timeout: float = PATIENCE_S) -> str:
        """Wait until a machine is heard, with another boot id if one is given; the boot id."""

        def heard() -> str:
            newest = self.recorder.newest(name)
            return newest.boot if newest and newest.boot != other_than and self.recorder.is_heard(name) else ""

        return eventually(
            heard, timeout=timeout, what=f"{name} is heard" + f", other than {other_than}" * bool(other_than)
        )

    def stop(self) -> None:
        """Stop listening; the hosts go with the lab."""
        for host in self.lab.hosts.values():
            host.power_off()
        for program in (*self.agents, *self.controls):
            program.kill()
        for relay in self._relays:
            relay.close()
        self.recorder.close()


def words_of(pid: int) -> bytes:
    """The command line of a process, empty when it is no more."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def until_none(left: Callable[[], list[Any]], *, timeout: float, what: str) -> None:
    """Wait until nothing is left; fail with what is."""
    patience = Patience(timeout)
    found: list[Any] = []
    while not patience.is_over():
        with contextlib.suppress(httpx2.HTTPError):
            if not (found := left()):
                return
        time.sleep(0.1)
    raise AssertionError(f"not within {timeout} s: {what}; left: {found}")


def machine_of(words: list[bytes]) -> str:
    """The machine's id, from the words of a hypervisor's command line."""
    for word in words:
        for part in word.replace(b",", b"/").split(b"/"):
            if part.startswith(b"vm-") and len(part) == 29:
                return part.decode()
    return ""


@contextlib.contextmanager
def fleet(lab: Lab, **settings: Any) -> Iterator[Fleet]:
    """A running fleet; its logs are printed when the block fails."""
    running = Fleet(lab, **settings)
    try:
        yield running.start()
    except BaseException:
        running.explain()
        raise
    finally:
        running.stop()

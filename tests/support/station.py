"""An agent's executors in a process of their own, over a folder, struck where a test says.

No control plane: the test says what is wanted and hears what is told. A process is forked, so it begins at once. What
it changes on the disk, and what it tells QEMU to do, is counted from the first desired state on.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from nacre.agent.crossings import Gate
from nacre.agent.executor import Executor
from nacre.agent.host import cgroups, users
from nacre.agent.host.users import Users
from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.qemu.qmp import Qmp
from nacre.agent.settings import Settings
from nacre.agent.vms.host import Host
from nacre.agent.vms.migrate import Lines
from nacre.agent.volume_executor import VolumeExecutor
from nacre.model.ids import VmId, VolumeId
from nacre.model.vms import VmObserved
from nacre.model.volumes import VolumeObserved
from nacre.protocol.messages import NodeIntent
from support.crossing import Nobody
from support.node import Node

LOOK_AGAIN_S = 2.0
REST_S = 0.005
_EFFECTS = frozenset({"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"})
_PROGRAMS = frozenset({"subprocess.Popen", "os.posix_spawn"})
_QUESTIONS = ("query-", "qom-list", "qom-get", "qmp_capabilities")
_NOISE = ("console.log", "hypervisor.log")
Wires = Callable[[], tuple[Lines, Gate]]


@dataclass
class Strike:
    """Does something just before the n-th effect."""

    root: str
    number: int
    then: Callable[[str], None]
    armed: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def listen(self) -> None:
        """Hear of effects from now on; they count once it is armed. For the rest of this process's life."""
        sys.addaudithook(self._hear)
        execute = Qmp.execute

        async def counted(qmp: Qmp, command: str, arguments: Any = None, *, timeout: float) -> object:
            if not command.startswith(_QUESTIONS):
                self.effect(f"QMP {command}")
            return await execute(qmp, command, arguments, timeout=timeout)

        Qmp.execute = counted  # type: ignore[method-assign]

    def effect(self, name: str) -> None:
        """Count. Threads have effects, too: each gets a number of its own."""
        if not self.armed:
            return
        number = next(self.numbers)
        sys.stderr.write(f"effect {number}: {name}\n")
        if number == self.number:
            self.then(name)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event in _PROGRAMS:
            words = [str(word) for word in arguments[1] or ()]
            if words and Path(words[0]).name == "qemu-img" and words[1:2] == ["info"]:
                return
            self.effect(" ".join([Path(words[0]).name, *words[1:2]]) if words else event)
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in _EFFECTS and not writes:
            return
        place = arguments[1] if event == "os.rename" else arguments[0]
        path = os.fsdecode(os.fspath(place)) if isinstance(place, str | bytes | os.PathLike) else ""
        inside = path.startswith(self.root) or not path.startswith("/")  # folders are emptied from within
        if inside and path and not path.endswith(_NOISE):
            self.effect(f"{event} {path.removeprefix(self.root)}")


@dataclass
class Station(Node):
    """The node inside of the process."""

    tell: Callable[[object], None] = lambda _said: None
    wires: tuple[Lines, Gate] = field(default_factory=lambda: (Nobody(), Nobody()))
    bare: bool = True
    """Without control groups and users of machines' own."""

    def _executor(self) -> Executor:
        self.watched: list[VolumeExecutor] = []
        return Executor(
            self.host,
            self.consoles,
            lines=self.wires[0],
            gate=self.wires[1],
            told=self._vm,
            forgotten=lambda vm: self.tell(("forgotten", vm)),
            copied=lambda: self.tell(("copies", self.executor.copies())),
        )

    def _host(self, **changes: Any) -> Host:
        assert self.driver is not None
        values: dict[str, Any] = {"hypervisors": {self.driver.name: self.driver}}
        if not self.bare:
            values["cgroups"] = cgroups.Cgroups(cgroups.find())
            values["users"] = None if users.obstacle(self.root) else Users(Settings().users, (self.root,))
        return super()._host(**(values | changes))

    def _vm(self, vm: VmObserved) -> None:
        self.tell(vm)
        if vm.run is not None:
            for volumes in self.watched:
                volumes.look(vm.run.volumes)


async def _serve(station: Station, wire: Connection, strike: Strike, instead: NodeIntent | None) -> None:
    """Be an agent until told to leave."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    volumes = VolumeExecutor(
        station.pools,
        station.host.images,
        station.executor,
        clock=station.host.clock,
        random=lambda: 0.0,
        told=station.tell,
        forgotten=lambda volume: station.tell(("forgotten", volume)),
    )
    station.watched.append(volumes)

    asked, told = asyncio.Event(), 0

    def want(intent: NodeIntent) -> None:
        volumes.want(intent)
        station.executor.want(intent)
        station.tell(("copies", station.executor.copies()))
        asked.set()

    async def rest() -> None:
        while True:
            await asyncio.sleep(REST_S)
            lanes = [*station.executor._lanes._lanes.values(), *volumes._lanes._lanes.values()]
            if asked.is_set() and all(lane.task is None for lane in lanes):
                asked.clear()
                station.tell(("rests", told))

    def hear() -> None:
        nonlocal told
        said: NodeIntent | None = None
        with contextlib.suppress(EOFError):
            said = wire.recv()
        if said is None:
            loop.remove_reader(wire.fileno())
            done.set()
            return
        strike.armed = True
        told += 1
        want(said)

    async def look_again() -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            station.executor.look_again()
            volumes.look_again()

    if instead is not None:
        strike.then = lambda name: (station.tell(("struck", name)), loop.call_soon_threadsafe(want, instead))  # type: ignore[assignment]
    strike.listen()
    await volumes.begin()
    await station.executor.begin()
    looking = [asyncio.create_task(look_again()), asyncio.create_task(rest())]
    loop.add_reader(wire.fileno(), hear)
    await done.wait()
    for task in looking:
        task.cancel()
    await volumes.close()
    await station.executor.close()
    station.consoles.close()


@dataclass
class Agent:
    """The process, as the test sees it."""

    root: Path
    driver: str = "fake"
    wires: Wires | None = None
    bare: bool = False
    pool_roots: tuple[str, ...] = ()
    vms: dict[VmId, VmObserved] = field(default_factory=dict[VmId, VmObserved])
    volumes: dict[VolumeId, VolumeObserved] = field(default_factory=dict[VolumeId, VolumeObserved])
    forgotten: set[str] = field(default_factory=set[str])
    copies: tuple[Any, ...] = ()
    told: int = 0
    """How often it was told what to want."""
    rested: int = 0
    """How much of that it has come to the end of. What it tells may be ahead of what it has done."""
    struck: str = ""
    """The effect before which it was struck."""
    pid: int = 0
    _wire: Connection | None = None

    def start(self, strike: int = 0, instead: NodeIntent | None = None, *, killed: bool = True) -> "Agent":
        """Begin. Before its `strike`-th effect it is killed, or wants something else instead, or only says so."""
        self.vms, self.volumes, self.forgotten, self.copies, self.struck = {}, {}, set(), (), ""
        self.told, self.rested = 0, 0
        self._wire, far = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._wire.close()
            self._live(far, strike, instead, killed=killed)
        far.close()
        return self

    @property
    def rests(self) -> bool:
        """Whether it has come to the end of all that it was told, or waits to try something again."""
        return self.rested == self.told

    def want(self, intent: NodeIntent) -> None:
        """Tell it what there should be."""
        assert self._wire is not None
        self.told += 1
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # `hear` finds out
            self._wire.send(intent)

    def hear(self, timeout: float = 0.0) -> bool:
        """Take in what it has told, waiting for so long at most. False if it is dead."""
        if self._wire is None:
            return False
        try:
            while self._wire.poll(timeout):
                self._note(self._wire.recv())
                timeout = 0.0
        except (EOFError, ConnectionResetError):
            self._buried()
            return False
        return True

    def stop(self) -> None:
        """Have it leave properly."""
        if self._wire is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._wire.send(None)
            while self.hear(1.0):
                pass

    def kill(self) -> None:
        """SIGKILL."""
        if self._wire is not None:
            os.kill(self.pid, signal.SIGKILL)
            while self.hear(1.0):
                pass

    @property
    def lives(self) -> bool:
        """Whether it was neither killed nor told to leave."""
        return self._wire is not None

    @property
    def log(self) -> Path:
        """What it says."""
        return self.root / "agent.log"

    def tail(self) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])

    def _note(self, said: Any) -> None:
        match said:
            case VmObserved():
                self.vms[said.id] = said
            case VolumeObserved():
                self.volumes[said.id] = said
            case "struck", name:
                self.struck = name
            case "rests", count:
                self.rested = count
            case "copies", copies:
                self.copies = copies
            case "forgotten", name:
                self.forgotten.add(name)
                self.vms.pop(name, None)
                self.volumes.pop(name, None)
            case _:
                raise AssertionError(said)

    def _buried(self) -> None:
        assert self._wire is not None
        self._wire.close()
        self._wire = None
        _, ended = os.waitpid(self.pid, 0)
        by_hand = os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL
        assert by_hand or (os.WIFEXITED(ended) and os.WEXITSTATUS(ended) == 0), f"it broke: {ended}\n{self.tail()}"

    def _live(self, wire: Connection, number: int, instead: NodeIntent | None, *, killed: bool) -> None:
        status = 1
        try:
            log = os.open(self.log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)

            one_at_a_time = threading.RLock()

            def tell(said: object) -> None:
                with one_at_a_time:
                    wire.send(said)

            def dies(name: str) -> None:
                tell(("struck", name))
                if killed:
                    os.kill(os.getpid(), signal.SIGKILL)

            strike = Strike(f"{self.root}/", number, dies)
            asyncio.run(self._run(wire, tell, strike, instead))
            status = 0
        except BaseException:  # a fork must never get back into the test's own frames
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)

    async def _run(
        self, wire: Connection, tell: Callable[[object], None], strike: Strike, instead: NodeIntent | None
    ) -> None:
        driver = registry.load(self.driver, self.root / "state")
        wires = (Nobody(), Nobody()) if self.wires is None else self.wires()
        station = Station(
            root=self.root, driver=driver, tell=tell, wires=wires, bare=self.bare, pool_roots=self.pool_roots
        )
        await _serve(station, wire, strike, instead)

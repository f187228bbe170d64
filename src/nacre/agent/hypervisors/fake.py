"""A hypervisor that behaves and emulates nothing. For tests of everything above drivers, and for trying things out.

Its guests are small real processes (`fake_guest.py`) with real sockets, logs and ports, which outlive the agent; so
adoption, locks, leaks and kills are as real as with QEMU. The contract suite holds it to the same promises.
"""

import asyncio
import contextlib
import itertools
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import msgspec

from nacre.agent.hypervisors import guarding, ports, registry
from nacre.agent.hypervisors.base import Guard, Guest, GuestEvent, GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, Launch
from nacre.agent.hypervisors.lifecycle import Life, take_hold
from nacre.lib import processes
from nacre.model.capabilities import BASELINE, NATIVE, Capability, Offer
from nacre.model.convergence import FailureClass
from nacre.model.nodes import HypervisorInfo
from nacre.model.vms import MachineType

_PROGRAM = Path(__file__).with_name("fake_guest.py")
_BEHAVES = (
    Capability.SHUTDOWN,
    Capability.RESET,
    Capability.PAUSE,
    Capability.GUARD,
    Capability.CONSOLE,
    Capability.DISK_RAW,
    Capability.DISK_SNAPSHOT,
    Capability.CHECKPOINT,
)
_SAVED = "guest.json"
_CONTROL = "control.sock"
_CONSOLE = "console.sock"
_START_S = 15.0
_ANSWER_S = 5.0
_QUIT_S = 5.0
_RECONNECT_S = 0.1

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class FakeHypervisor:
    """The driver called `fake`."""

    def __init__(self, *, state_directory: Path) -> None:
        del state_directory  # it has nothing to remember

    @property
    def name(self) -> str:
        """As in `VmSpec.hypervisor`."""
        return "fake"

    async def probe(self) -> HypervisorInfo:
        """Always available."""
        return HypervisorInfo(
            name=self.name,
            available=True,
            reason=guarding.obstacle(),
            version="1",
            accelerator="none",
            machines=tuple(m.value for m in MachineType),
            abilities=registry.abilities(self),
        )

    async def offer(self) -> Offer:
        """What its guests behave as if they could."""
        return dict.fromkeys((*BASELINE, *_BEHAVES), NATIVE)

    def guard_obstacle(self) -> str:
        """Its guests are processes like all others."""
        return guarding.obstacle()

    async def start(self, launch: Launch) -> Guest:
        """Start the process; returns when it answers. Raises DriverError and leaves no process behind."""
        return await self._start(launch, None)

    async def restore(self, launch: Launch, directory: Path) -> Guest:
        """Start a process that goes on where a guest was saved, paused. Raises DriverError and leaves no process."""
        try:
            saved = cast("dict[str, object]", msgspec.json.decode((directory / _SAVED).read_bytes()))
        except (OSError, msgspec.DecodeError) as error:
            raise DriverError(
                "checkpoint_unusable",
                "the fake guest cannot go on from its checkpoint: its files are gone or damaged",
                hint="use another checkpoint, or start the machine from its disks",
                failure_class=FailureClass.PERMANENT,
            ) from error
        return await self._start(launch, saved)

    async def _start(self, launch: Launch, saved: dict[str, object] | None) -> Guest:
        ports.check_free(launch.publish)
        config = launch.run_directory / "fake.json"
        config.write_bytes(msgspec.json.encode({**_config(launch), "saved": saved}))
        process = await guarding.spawn(
            [sys.executable, "-I", "-S", str(_PROGRAM), str(config)],
            lease=launch.lease,
            output=launch.directory / "hypervisor.log",
            inherit=[launch.lock_fd],
        )
        try:
            guest = await _greet(launch, process)
        except BaseException:
            await asyncio.shield(process.kill())
            process.close()
            _clean_up(launch)
            raise
        return guest

    async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
        """Take over a guest that outlived the agent; None if there is none."""
        if handle is not None:
            process = take_hold(handle)
        else:
            found = await processes.listener(launch.run_directory / _CONTROL)
            process = found and processes.Process.open(found.pid, found.start_time)
        if process is None:
            return None
        held_by = guarding.guard_of(process)
        if guarding.is_frozen(process, held_by):  # it cannot say who it is
            return FakeGuest(launch, process, None) if handle or guarding.is_for(held_by, launch) else None
        guest = await _greet(launch, process)
        if guest.identity != launch.vm:
            await guest.detach()
            return None
        return guest


class FakeGuest:
    """One running fake machine."""

    def __init__(self, launch: Launch, process: processes.Process, connection: Connection | None) -> None:
        """`connection` is None for a frozen guest: it is made when the guest goes on."""
        self.identity = ""
        self._launch = launch
        self._connection = connection
        self._connected = asyncio.Event()
        self._guard = guarding.guard_of(process)
        self._answers: dict[int, asyncio.Future[dict[str, object]]] = {}
        self._numbers = itertools.count()
        self._handle = Handle(
            pid=process.pid, start_time=process.start_time, boot_id=processes.boot_id(), accelerator="none"
        )
        self._life = Life(process, drain=self._drain, clean_up=lambda: _clean_up(launch))
        self._listening = asyncio.create_task(self._listen())
        self._quitting: asyncio.Task[None] | None = None

    @property
    def handle(self) -> Handle:
        """How to find it again."""
        return self._handle

    @property
    def guard(self) -> Guard | None:
        """What freezes it when its lease ends."""
        return self._guard

    @property
    def console_socket(self) -> Path:
        """Unix stream socket of the console."""
        return self._launch.run_directory / _CONSOLE

    @property
    def console_log(self) -> Path:
        """What the console printed."""
        return self._launch.directory / "console.log"

    async def greet(self) -> None:
        """Learn who it is and how it is."""
        self.identity = str((await self._ask("identify")).get("vm"))
        await self.state()

    async def state(self) -> GuestState:
        """Ask the process."""
        if self._life.gone.is_set() or not self._life.process.alive():
            return GuestState.GONE
        if guarding.is_frozen(self._life.process, self._guard):
            return GuestState.FROZEN
        state = GuestState(str((await self._ask("state"))["state"]))
        if state is GuestState.SHUT_DOWN:
            self._powered_off()
        return state

    def events(self) -> AsyncIterator[GuestEvent]:
        """Changes from now on; ends after GONE."""
        return self._life.events()

    async def shutdown(self) -> None:
        """Press the power button."""
        self._life.asked = True
        await self._ask("shutdown")

    async def reset(self) -> None:
        """Hard reset."""
        await self._ask("reset")

    async def pause(self) -> None:
        """Stop the clock."""
        await self._ask("pause")

    async def resume(self) -> None:
        """Let it run again."""
        await self._ask("resume")

    async def save(self, directory: Path) -> None:
        """Write what the paused guest has in mind to a folder. May be repeated. Raises DriverError."""
        told = await self._ask("save")
        if told["state"] != GuestState.PAUSED.value:
            raise DriverError(
                "guest_not_paused",
                "only a paused machine can be saved",
                hint="pause it first",
                failure_class=FailureClass.PERMANENT,
            )
        draft = directory / f"{_SAVED}.partial"
        draft.write_bytes(msgspec.json.encode({"ticks": told["ticks"]}))
        draft.replace(directory / _SAVED)

    async def switch_disk(self, disk: str, layer: DiskFile) -> None:
        """Go on with another layer. It writes to none, so there is nothing to be told."""

    async def merge_disk(self, disk: str, layer: Path) -> None:  # noqa: ARG002  # a file says which disk
        """Take a layer under a disk into the one above it. Raises DriverError."""
        for path in sorted(layer.parent.glob("*.qcow2")):
            if await _backing(path) == layer.name and (below := await _backing(layer)):
                await _qemu_img("rebase", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", str(path))

    async def release(self) -> None:
        """The power-off is on record."""
        self._life.released.set()

    async def kill(self) -> None:
        """End the process and return when it is gone."""
        await self._life.kill()
        await self._hang_up()

    async def detach(self) -> None:
        """Let go; the guest stays."""
        await self._life.leave()
        await self._hang_up()

    async def _ask(self, verb: str) -> dict[str, object]:
        number = next(self._numbers)  # never one that a late answer may still come to
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._connected.wait()
                if self._connection is None:
                    raise _silent()
                self._connection[1].write(json.dumps({"id": number, "do": verb}).encode() + b"\n")
                return await answer
        except (OSError, TimeoutError) as error:
            raise _silent() from error
        finally:
            del self._answers[number]

    async def _listen(self) -> None:
        self._connection = self._connection or await _connection(self._launch, self._life.process)
        self._connected.set()
        if self._connection is None:
            return
        try:
            while line := await self._connection[0].readline():
                message = cast("dict[str, object]", json.loads(line))
                if "event" in message:
                    self._heard(GuestState(str(message["event"])), str(message["detail"]))
                elif (answer := self._answers.get(cast("int", message["id"]))) and not answer.done():
                    answer.set_result(message)
        except OSError:
            pass
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(_silent())

    def _heard(self, state: GuestState, detail: str) -> None:
        if state is GuestState.SHUT_DOWN:
            self._powered_off()
        else:
            self._life.tell(GuestEvent(state=state, detail=detail))

    def _powered_off(self) -> None:
        self._life.powered_off = True
        self._life.tell(GuestEvent(state=GuestState.SHUT_DOWN))
        if self._quitting is None:
            self._quitting = asyncio.create_task(self._quit())

    async def _quit(self) -> None:
        await self._life.may_end()
        with contextlib.suppress(DriverError):
            await self._ask("quit")
        if not await self._life.wait(_QUIT_S):
            await self._life.kill()

    async def _drain(self) -> None:
        await asyncio.wait({self._listening})
        if self._connection is not None:
            self._connection[1].close()

    async def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection[1].close()
        tasks = [task for task in (self._listening, self._quitting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _greet(launch: Launch, process: processes.Process) -> FakeGuest:
    deadline = asyncio.get_running_loop().time() + _START_S
    while True:
        try:
            connection = await asyncio.open_unix_connection(launch.run_directory / _CONTROL)
        except OSError as error:
            if await process.wait(0.005):
                raise DriverError(
                    "hypervisor_start_failed",
                    "the fake guest ended before it answered",
                    hint="look at hypervisor.log in the machine's directory on the node",
                    failure_class=FailureClass.TRANSIENT,
                ) from error
            if asyncio.get_running_loop().time() > deadline:
                raise _silent() from error
        else:
            guest = FakeGuest(launch, process, connection)
            await guest.greet()
            return guest


async def _connection(launch: Launch, process: processes.Process) -> Connection | None:
    """Connect to a guest that was frozen, as soon as it takes connections; None if it ends before."""
    while process.alive():
        with contextlib.suppress(OSError):
            return await asyncio.open_unix_connection(launch.run_directory / _CONTROL)
        await asyncio.sleep(_RECONNECT_S)
    return None


async def _backing(path: Path) -> str:
    """What a layer says of the one below it; empty if it says nothing."""
    facts = cast("dict[str, object]", msgspec.json.decode(await _qemu_img("info", "--output=json", str(path))))
    return str(facts.get("backing-filename") or "")


async def _qemu_img(*words: str) -> bytes:
    process = await asyncio.create_subprocess_exec("qemu-img", *words, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    if process.returncode:
        raise DriverError(
            "layer_not_merged", f"qemu-img {words[0]} failed", hint="look at the node's storage; it is tried again"
        )
    return said


def _silent() -> DriverError:
    return DriverError(
        "hypervisor_silent",
        "the fake guest does not answer",
        hint="it is asked again; stop the machine by force if not",
    )


def _config(launch: Launch) -> dict[str, object]:
    return {
        "vm": launch.vm,
        "run": launch.run,
        "name": launch.name,
        "kernel_args": launch.kernel_args,
        "control_socket": str(launch.run_directory / _CONTROL),
        "console_socket": str(launch.run_directory / _CONSOLE),
        "console_log": str(launch.directory / "console.log"),
        "publish": [msgspec.to_builtins(port) for port in launch.publish],
    }


def _clean_up(launch: Launch) -> None:
    for name in (_CONTROL, _CONSOLE, "fake.json"):
        (launch.run_directory / name).unlink(missing_ok=True)

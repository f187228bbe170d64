"""Machines that go to another node or come from one while they run: what goes on beside their lanes.

Used by the executor. A lane never waits for a machine to be copied: it begins that here, and is rung when something has
changed. Decides nothing; what follows is the planner's.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from nacre.agent.hypervisors.abilities import CanTakeOver
from nacre.agent.hypervisors.base import Guest, GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.steps import Await, Crossing, Recall, Receive, Recollect, Reject, Send
from nacre.agent.vms import arrive, migrate
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.migrate import SOCKET, Lines
from nacre.errors import NacreError
from nacre.model.arrivals import VmArrival
from nacre.model.ids import NodeId, StreamId, VmId
from nacre.model.migrations import ArrivalObserved, ArrivalState, Offer, Outgoing, OutgoingObserved, SendState

LOOK_S = 0.05
GRACE_S = 20.0
"""How long what is on its way may take to come in after the source has hung up."""
_MADE_READY_S = 120.0

log = structlog.get_logger()


class Gate(Protocol):
    """Where other nodes come in."""

    async def expect(
        self,
        stream: StreamId,
        source: NodeId,
        *,
        offered: Callable[[Offer], Awaitable[Path]],
        lost: Callable[[], None],
    ) -> tuple[str, ...]:
        """Listen for a stream and return the addresses to be dialled. Raises NacreError."""
        ...

    async def forget(self, stream: StreamId) -> None:
        """Listen for a stream no more."""
        ...


class Crossings:
    """All machines of the node that come or go."""

    def __init__(
        self,
        host: Host,
        *,
        lines: Lines,
        gate: Gate,
        look: Callable[[VmId], None],
        attend: Callable[[Machine, Guest], Awaitable[None]],
        counted: Callable[[str, str], None],
    ) -> None:
        """`look` has the executor look at a machine again, `attend` hears what a guest does, `counted` of outcomes."""
        self._host = host
        self._lines = lines
        self._gate = gate
        self._look = look
        self._attend = attend
        self._counted = counted
        self._sending: dict[VmId, asyncio.Task[None]] = {}
        self._watching: dict[VmId, asyncio.Task[None]] = {}
        self._ready: dict[VmId, asyncio.Future[Path]] = {}
        self._lost: dict[VmId, asyncio.Event] = {}

    async def carry_out(self, machine: Machine, step: Crossing) -> None:
        """Do a step, or begin it. Raises NacreError and OSError."""
        match step:
            case Send(intent=intent):
                assert intent.outgoing is not None
                await self._send(machine, intent.outgoing)
            case Recollect():
                await migrate.recollect(machine)
            case Recall():
                await self.stop(machine.id)
                await migrate.recall(machine, self._host)
            case Await(arrival=arrival):
                await self._await(machine, arrival)
            case Receive():
                await self._receive(machine)
            case Reject():
                await self._forget(machine)
                await arrive.reject(machine, self._host)

    async def landed(self, machine: Machine) -> None:
        """A machine that has come belongs here now: nobody is listened to any more, and its disks are its own.

        Raises DriverError.
        """
        await self._forget(machine)
        guest = machine.guest
        if machine.record.arriving is not None and isinstance(guest, CanTakeOver) and not machine.frozen:
            await guest.take_over()
        machine.arrival = None

    async def stop(self, vm: VmId) -> None:
        """Stop sending a machine. What has become of it is not known afterwards."""
        await _end(self._sending.pop(vm, None))

    async def close(self) -> None:
        """End everything that goes on. Machines that were being sent go on where they are."""
        for tasks in (self._sending, self._watching):
            for vm in list(tasks):
                await _end(tasks.pop(vm))

    # Going

    async def _send(self, machine: Machine, order: Outgoing) -> None:
        guest = machine.guest
        if guest is None:
            return
        await self.stop(machine.id)
        await machine.save(sending=migrate.begun(order.stream))
        machine.outgoing = OutgoingObserved(stream=order.stream, state=SendState.WAITING)
        self._sending[machine.id] = asyncio.create_task(self._sent(machine, guest, order), name=f"send {machine.id}")

    async def _sent(self, machine: Machine, guest: Guest, order: Outgoing) -> None:
        log.info("vm.sending", vm=machine.id, stream=order.stream, target=order.target)
        try:
            await migrate.send(machine, guest, order, self._lines, self._host)
            self._counted("sent", "done")
        except (NacreError, OSError) as error:
            self._counted("sent", "failed")
            sending = machine.record.sending
            if sending is None or not sending.sent:
                migrate.failed(machine, order.stream, error)
        except Exception:
            log.exception("vm.send_broke", vm=machine.id, next="what has become of it is found out")
            machine.outgoing = None
        self._look(machine.id)

    # Coming

    async def _await(self, machine: Machine, arrival: VmArrival) -> None:
        was = machine.record.arriving
        if was is not None and was.stream == arrival.stream and was.received:
            await self._found(machine, arrival.stream)
            return
        machine.note(arriving=arrive.begun(arrival), intent=arrival.vm)
        lost = self._lost[machine.id] = asyncio.Event()
        try:
            await arrive.prepare(machine, arrival, self._host)
            addresses = await self._gate.expect(
                arrival.stream, arrival.source, offered=lambda offer: self._offered(machine, offer), lost=lost.set
            )
        except (NacreError, OSError) as error:
            told = error if isinstance(error, NacreError) else _unwritten(error)
            log.warning("vm.not_awaited", vm=machine.id, code=told.code, message=told.message, next="it stays there")
            _note(machine, arrival.stream, ArrivalState.FAILED, message=told.message)
            return
        _note(machine, arrival.stream, ArrivalState.READY, addresses=addresses)

    async def _found(self, machine: Machine, stream: StreamId) -> None:
        """An earlier agent has begun to take it in: either it is all here, or it never will be."""
        try:
            state = await machine.guest.state() if machine.guest is not None else GuestState.GONE
        except DriverError:
            state = GuestState.STARTING
        if state is GuestState.PAUSED:
            _note(machine, stream, ArrivalState.ARRIVED)
        else:
            _note(machine, stream, ArrivalState.FAILED, message="the agent of its new node ended while it was copied")

    async def _offered(self, machine: Machine, offer: Offer) -> Path:
        """The source is there: have the lane make ready, and return the socket."""
        ready: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._ready[machine.id] = ready
        machine.offer = offer
        self._look(machine.id)
        try:
            async with asyncio.timeout(_MADE_READY_S):
                return await ready
        except TimeoutError as error:
            raise DriverError(
                "arrival_slow", "the other node does not get ready", hint="look at its storage; it is tried again"
            ) from error

    async def _receive(self, machine: Machine) -> None:
        offer, arriving = machine.offer, machine.record.arriving
        machine.offer = None
        ready = self._ready.pop(machine.id, None)
        if offer is None or arriving is None or ready is None or ready.done():
            return
        try:
            guest = await arrive.receive(machine, offer, self._host)
        except (NacreError, OSError) as error:
            told = error if isinstance(error, NacreError) else _unwritten(error)
            if not ready.done():
                ready.set_exception(told)
            _note(machine, arriving.stream, ArrivalState.FAILED, message=told.message)
            return
        _note(machine, arriving.stream, ArrivalState.COPYING)
        await self._attend(machine, guest)
        self._watching[machine.id] = asyncio.create_task(
            self._watch(machine, guest, arriving.stream), name=f"arrival {machine.id}"
        )
        if not ready.done():
            ready.set_result(self._host.run_place(machine.id) / SOCKET)

    async def _watch(self, machine: Machine, guest: Guest, stream: StreamId) -> None:
        """Wait until a machine is here, or cannot come any more."""
        lost, clock = self._lost[machine.id], asyncio.get_running_loop()
        until: float | None = None
        while True:
            try:
                state = await guest.state()
            except DriverError:
                state = GuestState.STARTING
            if state is GuestState.PAUSED:
                _note(machine, stream, ArrivalState.ARRIVED)
                self._counted("arrived", "done")
                log.info("vm.arrived", vm=machine.id, stream=stream, next="waits for the hand-over")
                break
            if lost.is_set() and until is None:
                until = clock.time() + GRACE_S
            if state is GuestState.GONE or (until is not None and clock.time() > until):
                self._counted("arrived", "failed")
                _note(machine, stream, ArrivalState.FAILED, message="the line broke before all of it had come")
                break
            await asyncio.sleep(LOOK_S)
        await guest_gone(machine, guest)
        if machine.record.arriving is not None and machine.record.arriving.stream == stream:
            _note(machine, stream, ArrivalState.FAILED, message="its process here has ended")

    async def _forget(self, machine: Machine) -> None:
        await _end(self._watching.pop(machine.id, None))
        ready = self._ready.pop(machine.id, None)
        if ready is not None and not ready.done():
            ready.cancel()
        self._lost.pop(machine.id, None)
        machine.offer = None
        if machine.arrival is not None:
            await self._gate.forget(machine.arrival.stream)


async def guest_gone(machine: Machine, guest: Guest) -> None:
    """Return when a guest is not a machine's any more."""
    while machine.guest is guest:  # noqa: ASYNC110  # it may be set aside in several ways, which all show here
        await asyncio.sleep(LOOK_S)


def _unwritten(error: OSError) -> DriverError:
    return DriverError(
        "arrival_failed",
        f"the other node cannot make ready: {error.strerror or error}",
        hint="look at its storage; it is tried again",
    )


def _note(
    machine: Machine,
    stream: StreamId,
    state: ArrivalState,
    *,
    addresses: tuple[str, ...] = (),
    message: str = "",
) -> None:
    now = machine.arrival or ArrivalObserved(stream=stream, state=state)
    machine.arrival = msgspec.structs.replace(
        now, stream=stream, state=state, addresses=addresses or now.addresses, message=message
    )
    machine.tell()


async def _end(task: "asyncio.Task[None] | None") -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})

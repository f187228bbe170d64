"""Send a machine to another node while it runs, and take it back. Called by `crossings`.

What is about to happen is on record before it happens, and that all has left before anybody hears of it: from then on
the machine does not run here until the control plane has withdrawn the order, whatever dies meanwhile.
"""

import asyncio
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from nacre.agent.hypervisors.abilities import (
    CanMigrate,
    CanTakeBack,
    HasShape,
    MigrationProgress,
    MigrationState,
    MigrationTerms,
    disks_socket,
)
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.records import Sending
from nacre.agent.vms import confining, rootdisk
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import open_volumes
from nacre.errors import NacreError
from nacre.model.convergence import FailureClass
from nacre.model.ids import StreamId, VolumeId
from nacre.model.migrations import DiskOffer, Offer, Outgoing, OutgoingObserved, SendState

SOCKET = "move.sock"
LOOK_S = 0.05
"""A machine that has left stands still until that is seen."""
TELL_S = 1.0
_DRAIN_S = 30.0
BUSY_S = 10.0
"""How long what is being done to a volume may take before the machine is not sent."""
_SILENT_S = 60.0
"""After so long without an answer the hypervisor is given up as a sender."""

log = structlog.get_logger()


class Line(Protocol):
    """An open way to the other node."""

    lost: asyncio.Event
    """Set when the other node is gone."""

    async def drained(self, timeout: float) -> None:
        """Return when everything that was sent has gone on, or after `timeout` seconds."""
        ...


class Lines(Protocol):
    """Opens ways to other nodes."""

    def open(self, order: Outgoing, offer: Offer, socket: Path) -> AbstractAsyncContextManager[Line]:
        """Have the other node wait for the machine, and listen on `socket` for the hypervisor. Raises NacreError."""
        ...


async def send(machine: Machine, guest: Guest, order: Outgoing, lines: Lines, host: Host) -> None:
    """Send a machine; returns when all of it has left and that is on record. `Machine.outgoing` follows it.

    Raises NacreError when it could not be sent: then it runs on here. When it is cancelled, `recall` finds out.
    """
    if not isinstance(guest, CanMigrate) or not isinstance(guest, HasShape):
        raise DriverError(
            "migration_unsupported",
            "the machine's hypervisor cannot move machines that run",
            hint="move it by a restart",
            failure_class=FailureClass.BLOCKED,
        )
    socket = host.run_place(machine.id) / SOCKET
    volumes = open_volumes(machine)
    await _undisturbed(volumes, host)
    sizes = await rootdisk.sizes(machine.id, host)
    run = machine.record.run
    began = run.info.config if run is not None else None
    offer = Offer(
        shape=await guest.shape(),
        least_cpus=began.least_cpus if began is not None else 0,
        least_memory_bytes=began.least_memory_bytes if began is not None else 0,
        cpus=run.info.cpus if run is not None else 0,
        memory_bytes=run.info.memory_bytes if run is not None else 0,
        disks=tuple(DiskOffer(id=disk, size_bytes=size) for disk, size in sorted(sizes.items())),
        volumes=await host.pools.offered(volumes),
    )
    terms = MigrationTerms(
        downtime_ms=order.downtime_ms, bandwidth_bytes=order.bandwidth_bytes, disks=tuple(sorted(sizes))
    )
    async with lines.open(order, offer, socket) as line:
        await confining.lend_sockets(machine, (socket, disks_socket(socket)), host)
        await guest.migrate(socket, terms)
        last = await _followed(machine, guest, line)
        if last.state is not MigrationState.MOVED:
            await guest.cancel_migration()  # unless it has gone after all
            last = await guest.migration()
        if last.state is not MigrationState.MOVED:
            raise _unsent(last.detail or ("the connection broke" if line.lost.is_set() else ""))
        await has_left(machine, order.stream, last)
        await line.drained(_DRAIN_S)


def begun(stream: StreamId) -> Sending:
    """Return what is put on record before anything is sent."""
    return Sending(stream=stream)


async def has_left(machine: Machine, stream: StreamId, last: MigrationProgress) -> None:
    """Put on record that all of a machine has left; only then say so. Raises OSError."""
    await machine.save(sending=Sending(stream=stream, sent=True))
    _note(machine, last, SendState.SENT)
    log.info("vm.sent", vm=machine.id, stream=stream, downtime_ms=last.downtime_ms, next="waits for the hand-over")


async def recollect(machine: Machine) -> None:
    """Find out how far an earlier agent has sent a machine. What was on its way is stopped: its line is gone."""
    sending = machine.record.sending
    if sending is None:
        return
    guest = machine.guest
    if not sending.sent and isinstance(guest, CanMigrate):
        await guest.cancel_migration()
        last = await guest.migration()
        if last.state is MigrationState.MOVED:
            await has_left(machine, sending.stream, last)
            return
    state = SendState.SENT if sending.sent else SendState.FAILED
    message = "" if sending.sent else "the agent of its node ended while it was copied"
    machine.outgoing = OutgoingObserved(stream=sending.stream, state=state, message=message)


async def recall(machine: Machine, host: Host) -> None:
    """Let a machine go on here. For who knows that it runs nowhere else, and never will by that stream."""
    guest = machine.guest
    if isinstance(guest, CanMigrate):
        await guest.cancel_migration()
        if (await guest.migration()).state is MigrationState.MOVED:
            if not isinstance(guest, CanTakeBack):
                raise DriverError(
                    "cannot_take_back",
                    "the machine's hypervisor cannot go on with a machine that was sent",
                    hint="stop it by force and start it again",
                    failure_class=FailureClass.BLOCKED,
                )
            await guest.take_back()
            log.info("vm.taken_back", vm=machine.id, next="it runs on here")
    await machine.save(sending=None)
    machine.outgoing = None
    machine.tell()
    await _reclaim(machine, host)


async def _undisturbed(volumes: Collection[VolumeId], host: Host) -> None:
    """Wait for what is being done to these volumes. That the machine is sent is on record: nothing else begins."""
    try:
        async with asyncio.timeout(BUSY_S), host.pools.held(volumes):
            pass
    except TimeoutError as error:
        raise DriverError(
            "volume_busy",
            "a volume of the machine is being cloned or changed",
            hint="it is tried again; wait for that to end, or look at it with `nacre volume show`",
        ) from error


async def _reclaim(machine: Machine, host: Host) -> None:
    """Make the files of volumes the machine's own again: the other node may have lent them to its own process."""
    for volume in open_volumes(machine):
        try:
            await confining.lend_file(machine, await host.pools.disk_of(volume), host)
        except (NacreError, OSError) as error:
            log.warning("vm.volume_not_lent", vm=machine.id, volume=volume, error=str(error), next="at its next start")


async def _followed(machine: Machine, guest: CanMigrate, line: Line) -> MigrationProgress:
    """Look how it goes until it has gone, cannot go, or the line is lost."""
    clock = asyncio.get_running_loop()
    heard_at, told_at = clock.time(), 0.0
    while True:
        try:
            found = await guest.migration()
        except DriverError:
            if clock.time() - heard_at >= _SILENT_S:
                raise
        else:
            heard_at = clock.time()
            if found.state not in {MigrationState.COPYING, MigrationState.POSTCOPY} or line.lost.is_set():
                return found
            if clock.time() - told_at >= TELL_S:
                told_at = clock.time()
                _note(machine, found, SendState.COPYING)
        await asyncio.sleep(LOOK_S)


def _note(machine: Machine, found: MigrationProgress, state: SendState) -> None:
    if machine.outgoing is None:
        return
    machine.outgoing = msgspec.structs.replace(
        machine.outgoing,
        state=state,
        transferred_bytes=found.transferred_bytes,
        remaining_bytes=0 if state is SendState.SENT else found.remaining_bytes,
        downtime_ms=found.downtime_ms,
    )
    machine.tell()


def failed(machine: Machine, stream: StreamId, error: NacreError | OSError) -> None:
    """Say that a machine could not be sent and runs on here."""
    message = error.message if isinstance(error, NacreError) else error.strerror or str(error)
    log.warning("vm.not_sent", vm=machine.id, stream=stream, message=message, next="it runs on here")
    machine.outgoing = OutgoingObserved(stream=stream, state=SendState.FAILED, message=message)
    machine.tell()


def _unsent(why: str) -> DriverError:
    return DriverError(
        "migration_failed",
        f"the machine could not be sent: {why or 'the other node gave up'}",
        hint="it runs on here; it is tried again",
    )

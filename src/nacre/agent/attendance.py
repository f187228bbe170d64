"""What is done around a guest while it lives: hearing what it does, its console, its control group.

Used by the executor. Hears and does not decide: after all that a guest does, the executor looks at the machine again.
"""

import asyncio
import contextlib
from collections.abc import Callable

import structlog

from nacre.agent import failures
from nacre.agent.consoles import Consoles
from nacre.agent.frost import Frost
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.guest.watch import GuestWatch
from nacre.agent.hypervisors.abilities import HasGuestChannel
from nacre.agent.hypervisors.base import Guest, GuestEvent, GuestState
from nacre.agent.hypervisors.doors import Door
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.host import Host
from nacre.agent.vms.launching import nics
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import OF_GUEST, Presence
from nacre.lib.threads import in_thread
from nacre.model.ids import VmId
from nacre.model.vms import ExitReason

log = structlog.get_logger()


class Attendance:
    """All guests of the node."""

    def __init__(self, host: Host, consoles: Consoles, look: Callable[[VmId], None]) -> None:
        """`look` is called when the executor should look at a machine again."""
        self._host = host
        self._consoles = consoles
        self._look = look
        self._watchers: dict[VmId, asyncio.Task[None]] = {}
        self._guests: dict[VmId, Guest] = {}
        self._insides: dict[VmId, asyncio.Task[None]] = {}
        self._frost = Frost(look)

    @property
    def guards(self) -> int:
        """How many guests have a guard."""
        return self._frost.guards

    async def take(self, machine: Machine, guest: Guest) -> None:
        """Attend a guest that was started or adopted, until it is gone."""
        machine.took(guest)
        self._guests[machine.id] = guest
        self._consoles.attach(machine.id, Door(guest.console_socket, guest.handle.pid), guest.console_log)
        self._watchers[machine.id] = asyncio.create_task(self._watch(machine, guest), name=f"watch {machine.id}")
        try:
            state = await guest.state()
        except DriverError as error:
            log.warning("guest.silent", vm=machine.id, code=error.code, next="its events are waited for")
        else:
            if machine.guest is guest and state is not GuestState.GONE:
                machine.presence = OF_GUEST[state]
                if state is GuestState.FROZEN:
                    log.warning("vm.found_frozen", vm=machine.id, next="goes on with the next lease")
                    machine.froze()
        self._look_inside(machine, guest)
        self._frost.watch(machine, guest)
        memory = machine.record.run.info.memory_bytes if machine.record.run is not None else 0
        await in_thread(self._host.cgroups.add, machine.id, guest.handle.pid, memory)
        if guest.guard is not None:  # or a service manager that stops the agent would end it, and the guest with it
            await in_thread(self._host.cgroups.add, machine.id, guest.guard.pid, memory)

    async def close(self) -> None:
        """Let go of every guest. They run on."""
        await self._frost.close()
        watchers = [*self._watchers.values(), *self._insides.values()]
        for watcher in watchers:
            watcher.cancel()
        await asyncio.gather(*watchers, return_exceptions=True)
        await asyncio.gather(*(guest.detach() for guest in self._guests.values()), return_exceptions=True)

    async def _watch(self, machine: Machine, guest: Guest) -> None:
        try:
            async for event in guest.events():
                await self._heard(machine, guest, event)
        except Exception:
            log.exception("guest.watch_failed", vm=machine.id, next="the machine is looked for again")
            machine.guest = None
            machine.presence = Presence.UNKNOWN
        self._frost.leave(machine.id)
        inside = self._insides.pop(machine.id, None)
        if inside is not None:
            inside.cancel()
        del self._watchers[machine.id]
        del self._guests[machine.id]
        await guest.detach()
        self._look(machine.id)

    def _look_inside(self, machine: Machine, guest: Guest) -> None:
        socket = guest.guest_socket if isinstance(guest, HasGuestChannel) else None
        if socket is None:
            return
        intent = machine.record.intent
        inside = GuestWatch(
            machine.id,
            GuestAgent(Door(socket, guest.handle.pid)),
            {nic.mac: nic.id for nic in nics(intent)} if intent is not None else {},
            self._host.clock,
            awake=lambda: machine.presence is Presence.RUNNING and not machine.frozen,
            told=machine.tell,
        )
        machine.inside = inside
        self._insides[machine.id] = asyncio.create_task(inside.run(), name=f"inside {machine.id}")

    async def _heard(self, machine: Machine, guest: Guest, event: GuestEvent) -> None:
        match event.state:
            case GuestState.GONE:
                await self._gone(machine, event)
            case GuestState.SHUT_DOWN:
                machine.presence = Presence.LEAVING
                if machine.record.ending is None:
                    await _saved(machine, ending=ExitReason.GUEST_SHUTDOWN)
                await guest.release()
            case GuestState.FAILED:
                self._failed(machine, event)
            case state:
                if machine.presence is Presence.FAILED:
                    machine.failure = None
                machine.presence = OF_GUEST[state]
        if machine.guest is guest or event.state is GuestState.GONE:
            machine.tell()
            self._look(machine.id)

    async def _gone(self, machine: Machine, event: GuestEvent) -> None:
        told = event.exit_reason or ExitReason.CRASHED
        self._consoles.lost(machine.id)
        with contextlib.suppress(OSError):  # while it counts as running nobody makes it anew; a start does
            self._host.run_place(machine.id).rmdir()
        try:
            reason = await machine.ended(told, event.detail)
        except OSError as error:
            log.warning("record.not_written", vm=machine.id, reason=error.strerror, next="tried again")
            reason = told
        log.info("vm.ended", vm=machine.id, reason=reason, detail=event.detail)
        await in_thread(self._host.cgroups.remove, machine.id)

    def _failed(self, machine: Machine, event: GuestEvent) -> None:
        machine.presence = Presence.FAILED
        machine.pause_after_failure()
        machine.failure = failures.guest_failed(
            generation=machine.record.generation,
            at=self._host.clock.now(),
            detail=event.detail,
            attempts=machine.failures,
        )
        log.warning("vm.stopped_by_hypervisor", vm=machine.id, detail=event.detail, next="it is resumed after a while")


async def _saved(machine: Machine, **changes: object) -> None:
    """Put something on record; if that fails it stays in memory and is written with the next change."""
    try:
        await machine.save(**changes)
    except OSError as error:
        log.warning("record.not_written", vm=machine.id, reason=error.strerror, next="tried again with the next change")

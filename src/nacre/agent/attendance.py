"""What is done around a guest while it lives: hearing what it does, its console, its control group.

Used by the executor. Hears and does not decide: after all that a guest does, the executor looks at the machine again.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(eq=False)
class _Attended:
    """A guest and what is done around it. Its end may be seen to while the next life of its machine has begun."""

    guest: Guest
    watcher: asyncio.Task[None] | None = None
    inside: asyncio.Task[None] | None = None


class Attendance:
    """All guests of the node."""

    def __init__(self, host: Host, consoles: Consoles, look: Callable[[VmId], None]) -> None:
        """`look` is called when the executor should look at a machine again."""
        self._host = host
        self._consoles = consoles
        self._look = look
        self._attended: set[_Attended] = set()
        self._frost = Frost(look)

    @property
    def guards(self) -> int:
        """How many guests have a guard."""
        return self._frost.guards

    async def take(self, machine: Machine, guest: Guest) -> None:
        """Attend a guest that was started or adopted, until it is gone."""
        machine.took(guest)
        attended = _Attended(guest)
        self._attended.add(attended)
        self._consoles.attach(machine.id, Door(guest.console_socket, guest.handle.pid), guest.console_log)
        attended.watcher = asyncio.create_task(self._watch(machine, attended), name=f"watch {machine.id}")
        try:
            state = await guest.state()
        except DriverError as error:
            log.warning("guest.silent", vm=machine.id, code=error.code, next="its events are waited for")
        else:
            if machine.guest is guest and state is not GuestState.GONE:
                machine.presence = OF_GUEST[state]
                if state is GuestState.HALTED and machine.failure is None:
                    self._halted(machine, "")
                if state is GuestState.FROZEN:
                    log.warning("vm.found_frozen", vm=machine.id, next="goes on with the next lease")
                    machine.froze()
        if attended not in self._attended:
            return  # it has ended meanwhile, and that was seen to
        self._look_inside(machine, attended)
        self._frost.watch(machine, guest)
        memory = machine.record.run.info.memory_bytes if machine.record.run is not None else 0
        await in_thread(self._host.cgroups.add, machine.id, guest.handle.pid, memory)
        if guest.guard is not None:  # or a service manager that stops the agent would end it, and the guest with it
            await in_thread(self._host.cgroups.add, machine.id, guest.guard.pid, memory)

    async def close(self) -> None:
        """Let go of every guest. They run on."""
        await self._frost.close()
        left = list(self._attended)
        tasks = [task for each in left for task in (each.watcher, each.inside) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(each.guest.detach() for each in left), return_exceptions=True)

    async def _watch(self, machine: Machine, attended: _Attended) -> None:
        guest = attended.guest
        try:
            async for event in guest.events():
                await self._heard(machine, guest, event)
        except Exception:
            log.exception("guest.watch_failed", vm=machine.id, next="the machine is looked for again")
            if machine.guest is guest:
                machine.guest = None
                machine.presence = Presence.UNKNOWN
        self._frost.leave(machine.id, guest)
        if attended.inside is not None:
            attended.inside.cancel()
        self._attended.discard(attended)
        await guest.detach()
        self._look(machine.id)

    def _look_inside(self, machine: Machine, attended: _Attended) -> None:
        guest = attended.guest
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
        attended.inside = asyncio.create_task(inside.run(), name=f"inside {machine.id}")

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
            case GuestState.HALTED:
                self._halted(machine, event.detail)
            case state:
                if machine.presence in {Presence.FAILED, Presence.HALTED}:
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
        await in_thread(self._host.cgroups.remove, machine.id)  # nor has a next life one by now
        try:
            reason = await machine.ended(told, event.detail)
        except OSError as error:
            log.warning("record.not_written", vm=machine.id, reason=error.strerror, next="tried again")
            reason = told
        log.info("vm.ended", vm=machine.id, reason=reason, detail=event.detail)

    def _halted(self, machine: Machine, detail: str) -> None:
        machine.presence = Presence.HALTED
        machine.failure = failures.guest_halted(
            generation=machine.record.generation, at=self._host.clock.now(), detail=detail
        )
        log.warning("vm.halted", vm=machine.id, detail=detail, next="it waits for somebody to reset or resume it")

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

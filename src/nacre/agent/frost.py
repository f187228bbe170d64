"""Which guarded guests stand still, because the node's lease has ended, and which go on again. Used by `attendance`.

The guards need nobody for freezing and thawing; this is how the rest of the agent learns of it.
"""

import asyncio
from collections.abc import Callable

import structlog

from nacre.agent.hypervisors.base import Guest, GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import OF_GUEST
from nacre.lib import processes
from nacre.model.ids import VmId

_LOOK_S = 0.4

log = structlog.get_logger()


class Frost:
    """All guarded guests of the node."""

    def __init__(self, look: Callable[[VmId], None]) -> None:
        """`look` is called when the executor should look at a machine again."""
        self._look = look
        self._guests: dict[VmId, tuple[Machine, Guest]] = {}
        self._watching: asyncio.Task[None] | None = None

    @property
    def guards(self) -> int:
        """How many guests have a guard."""
        return len(self._guests)

    def watch(self, machine: Machine, guest: Guest) -> None:
        """Look after a guest, if it has a guard."""
        if guest.guard is None:
            return
        self._guests[machine.id] = machine, guest
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="frost")

    def leave(self, vm: VmId, guest: Guest) -> None:
        """Let go of a guest that is gone. The machine's next one is none of its business."""
        if vm in self._guests and self._guests[vm][1] is guest:
            del self._guests[vm]

    async def close(self) -> None:
        """Stop looking."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            changed = [each for each in self._guests.values() if each[0].frozen is not _is_stopped(each[1])]
            try:
                await asyncio.gather(*(self._check(machine, guest) for machine, guest in changed))
            except Exception:
                log.exception("frost.failed", next="looks again")
            await asyncio.sleep(_LOOK_S)

    async def _check(self, machine: Machine, guest: Guest) -> None:
        try:
            state = await guest.state()
        except DriverError:
            state = None  # it stands no longer still and does not answer yet
        if machine.guest is not guest or state is GuestState.GONE:
            return
        if state is GuestState.FROZEN:
            if not machine.frozen:
                log.warning("vm.frozen", vm=machine.id, next="goes on with the next lease")
                machine.froze()
                machine.tell()
        elif machine.frozen:
            log.info("vm.thawed", vm=machine.id)
            machine.thawed()
            if state is not None:
                machine.presence = OF_GUEST[state]
            machine.tell()
            self._look(machine.id)


def _is_stopped(guest: Guest) -> bool:
    return processes.is_stopped(guest.handle.pid, guest.handle.start_time)

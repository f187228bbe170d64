"""Look into one guest for as long as it runs: is its agent there, and what does it say? Used by the attendance."""

import asyncio
from collections.abc import Callable, Mapping

import msgspec
import structlog

from nacre.agent.guest.facts import GuestFigures, Look, look, settled
from nacre.agent.guest.freezing import thaw
from nacre.agent.guest.qga import GuestAgent
from nacre.errors import NacreError
from nacre.lib.clock import Clock
from nacre.model.guests import GuestInfo
from nacre.model.ids import VmId

FIRST_PAUSE_S = 1.0
PAUSE_S = 10.0
_MISSED = 3
"""So many looks in a row without an answer, and the agent counts as gone."""
_NO_FIGURES = GuestFigures()

log = structlog.get_logger()


class GuestWatch:
    """What is known of the inside of one guest."""

    def __init__(
        self,
        vm: VmId,
        agent: GuestAgent,
        nics: Mapping[str, str],
        clock: Clock,
        *,
        awake: Callable[[], bool],
        told: Callable[[], None],
    ) -> None:
        """`nics` are the machine's, MAC to id; `awake` says whether the guest could answer; `told` hears of changes."""
        self.agent = agent
        self.info: GuestInfo | None = None
        self.figures = _NO_FIGURES
        self._vm = vm
        self._nics = nics
        self._clock = clock
        self._awake = awake
        self._told = told
        self._missed = 0

    @property
    def answering(self) -> bool:
        """Whether the agent answered when it was last asked."""
        return self.info is not None and self.info.answering

    async def run(self) -> None:
        """Look again and again until cancelled."""
        try:
            while True:
                if self._awake():
                    await self._look()
                await asyncio.sleep(FIRST_PAUSE_S if self.info is None else PAUSE_S)
        finally:
            self.agent.close()

    async def _look(self) -> None:
        try:
            seen = await look(self.agent, self._nics, self._clock.now())
        except NacreError as error:
            self._not_seen(error)
            return
        self._missed = 0
        if seen.frozen:
            await self._found_frozen()
        elif not self.agent.still.locked():
            self._seen(seen)

    def _seen(self, seen: Look) -> None:
        self.figures = seen.figures
        info = settled(self.info, seen.info)
        if self.info is None:
            log.info("guest.answers", vm=self._vm, agent=info.agent_version)
        self._take(info)

    def _not_seen(self, error: NacreError) -> None:
        self._missed += 1
        if self.info is not None and self.info.answering and self._missed >= _MISSED:
            log.info("guest.silent", vm=self._vm, code=error.code, next="asked again")
            self.figures = _NO_FIGURES
            self._take(msgspec.structs.replace(self.info, answering=False, seen_at=self._clock.now()))

    async def _found_frozen(self) -> None:
        """Thaw what nobody here holds still: an agent of ours ended while it did."""
        if not self.agent.still.locked():
            log.warning("guest.found_frozen", vm=self._vm, next="thawed")
            await thaw(self.agent, self._vm)

    def _take(self, info: GuestInfo) -> None:
        if info != self.info:
            self.info = info
            self._told()

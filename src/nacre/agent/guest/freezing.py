"""Hold the file systems of a guest still for a moment, and let them go again whatever happens."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from nacre.agent.guest.qga import GuestAgent
from nacre.errors import NacreError, TimeoutExpiredError
from nacre.model.ids import VmId

FREEZE_S = 30.0
LONGEST_S = 60.0
"""A guest cannot write while it is frozen, so nothing may hold it for longer."""
THAW_S = 60.0
_PAUSE_S = 0.5

log = structlog.get_logger()


@asynccontextmanager
async def frozen(agent: GuestAgent, vm: VmId, *, longest_s: float = LONGEST_S) -> AsyncGenerator[None]:
    """Keep the guest's file systems frozen for as long as the block lasts, `longest_s` seconds at most.

    Who comes while somebody else has them frozen waits. Raises NacreError if they cannot be frozen,
    TimeoutExpiredError if the block takes too long. However it ends, even by cancellation, they are thawed before this
    returns, or it is logged that they could not be.
    """
    async with agent.still:
        try:
            await agent.ask("guest-fsfreeze-freeze", timeout=FREEZE_S)
            async with asyncio.timeout(longest_s):
                yield
        except TimeoutError as error:
            raise TimeoutExpiredError(
                "frozen_too_long",
                f"the guest's file systems were frozen for {longest_s:g} seconds and were let go",
                hint="try again; what was to be done meanwhile is not consistent",
            ) from error
        finally:
            # Also after a freeze that failed: one that came too late to be answered has frozen all the same.
            thawing = asyncio.create_task(thaw(agent, vm))
            try:
                await asyncio.shield(thawing)
            except asyncio.CancelledError:
                await thawing
                raise


async def thaw(agent: GuestAgent, vm: VmId) -> bool:
    """Let the file systems go. Tried again until the guest says that they are; False if it never did."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + THAW_S
    while True:
        try:
            await agent.ask("guest-fsfreeze-thaw")
            if await agent.ask("guest-fsfreeze-status") != "frozen":
                return True
            reason = "it is still frozen"
        except NacreError as error:
            if error.code == "guest_agent_lacks_command":
                return True  # what cannot freeze is not frozen
            reason = error.message
        if loop.time() > deadline:
            log.error("guest.not_thawed", vm=vm, reason=reason, next="tried again when its agent answers")
            return False
        await asyncio.sleep(_PAUSE_S)

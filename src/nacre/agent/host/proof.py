"""Hardware acceleration is proven before machines rely on it: in the background when the agent starts, or with the
first image that has a kernel. Machines that are to start meanwhile wait for the verdict, but not for long.

Knows drivers only by their ability.
"""

import asyncio
from collections.abc import Iterable
from pathlib import Path

import structlog

from nacre.agent.hypervisors.abilities import CanProbeAcceleration
from nacre.errors import NacreError

PATIENCE_S = 10.0

log = structlog.get_logger()


class AccelerationProof:
    """The proofs of all drivers that can."""

    def __init__(self, drivers: Iterable[object]) -> None:
        self._drivers = [driver for driver in drivers if isinstance(driver, CanProbeAcceleration)]
        self._running: asyncio.Task[None] | None = None

    def begin(self, kernel: Path) -> None:
        """Prove with this kernel, in the background. Does nothing after the first time."""
        if self._running is None:
            self._running = asyncio.create_task(self._prove(kernel), name="acceleration proof")

    async def settle(self, kernel: Path | None) -> None:
        """Wait a little for a verdict, beginning with `kernel` if nothing has begun yet."""
        if self._running is None and kernel is not None:
            self.begin(kernel)
        if self._running is not None and not self._running.done():
            await asyncio.wait({self._running}, timeout=PATIENCE_S)

    async def close(self) -> None:
        """Give up."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _prove(self, kernel: Path) -> None:
        for driver in self._drivers:
            try:
                await driver.prove_acceleration(kernel)
            except NacreError as error:
                log.info("acceleration.not_proven", code=error.code, message=error.message)
            except Exception:
                log.exception("acceleration.proof_failed", next="machines run without acceleration")

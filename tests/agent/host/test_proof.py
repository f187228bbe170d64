"""Acceleration is proven once, in the background, and nobody waits for it long."""

import asyncio
from pathlib import Path

import pytest

from nacre.agent.host import proof
from nacre.agent.host.proof import AccelerationProof
from nacre.errors import UnavailableError
from support.waiting import until

pytestmark = pytest.mark.anyio


class Prover:
    def __init__(self, error: Exception | None = None) -> None:
        self.kernels: list[Path] = []
        self.gate = asyncio.Event()
        self.error = error

    async def prove_acceleration(self, kernel: Path) -> None:
        self.kernels.append(kernel)
        await self.gate.wait()
        if self.error is not None:
            raise self.error


async def test_the_first_kernel_is_used_and_only_once():
    prover = Prover()
    made = AccelerationProof([prover, object()])
    await made.settle(None)
    made.begin(Path("/a"))
    made.begin(Path("/b"))
    prover.gate.set()
    await made.settle(Path("/c"))
    assert prover.kernels == [Path("/a")]


async def test_an_image_with_a_kernel_will_do_if_the_host_has_none():
    prover = Prover(UnavailableError("no", "no", hint="no"))
    prover.gate.set()
    made = AccelerationProof([prover])
    await made.settle(Path("/image"))
    await made.settle(Path("/image"))
    assert prover.kernels == [Path("/image")]


async def test_a_verdict_that_takes_long_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(proof, "PATIENCE_S", 0.05)
    prover = Prover()
    made = AccelerationProof([prover])
    made.begin(Path("/a"))
    await made.settle(None)
    assert prover.kernels == [Path("/a")]
    await made.close()
    await until(lambda: not prover.gate.is_set())

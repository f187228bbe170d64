"""What a test waits for, on a machine that stands still meanwhile."""

import asyncio
import time

import pytest

from support import patience
from support.patience import Patience, within
from support.waiting import until

pytestmark = pytest.mark.anyio


def test_time_in_which_nobody_looked_is_not_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(patience.time, "monotonic", lambda: now)
    waiting = Patience(10.0)
    now += 3600.0
    assert not waiting.is_over()
    for _ in range(8):
        now += 1.0
        assert not waiting.is_over()
    now += 1.0
    assert waiting.is_over()


async def test_what_does_not_end_is_cut_off_and_what_ends_is_not() -> None:
    with pytest.raises(TimeoutError):
        async with within(0.01):
            await asyncio.sleep(60)
    async with within(60):
        await asyncio.sleep(0)
    with pytest.raises(AssertionError, match="the last answer was 0"):
        await until(lambda: 0, timeout=0.01)


async def test_a_machine_that_stood_still_has_time_left() -> None:
    async with within(1.5):
        time.sleep(1.7)
        await asyncio.sleep(0.01)

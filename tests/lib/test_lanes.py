"""Lanes: never two at once for one key."""

import asyncio
from collections import Counter

import pytest

from nacre.lib.lanes import Lanes
from support.waiting import until

pytestmark = pytest.mark.anyio


class Works:
    """Work that can be watched and held up."""

    def __init__(self) -> None:
        self.runs: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.cancelled: Counter[str] = Counter()
        self.gate = asyncio.Event()
        self.error: Exception | None = None
        self.lanes: Lanes[str] = Lanes(self.work, random=lambda: 0.0)

    async def work(self, key: str) -> None:
        self.runs[key] += 1
        self.now[key] += 1
        self.most[key] = max(self.most[key], self.now[key])
        try:
            await self.gate.wait()
            if self.error is not None:
                raise self.error
        except asyncio.CancelledError:
            self.cancelled[key] += 1
            raise
        finally:
            self.now[key] -= 1


async def test_work_of_one_key_never_overlaps_and_rings_meanwhile_make_one_more_run():
    works = Works()
    for _ in range(5):
        works.lanes.ring("a")
    await until(lambda: works.runs["a"] == 1)
    for _ in range(5):
        works.lanes.ring("a")
    works.gate.set()
    await until(lambda: not works.lanes.is_busy("a"))
    assert works.runs["a"] == 2
    assert works.most["a"] == 1


async def test_keys_do_not_wait_for_each_other():
    works = Works()
    works.lanes.ring("a")
    works.lanes.ring("b")
    await until(lambda: works.now["a"] == works.now["b"] == 1)
    await works.lanes.close()


async def test_an_interrupt_cancels_what_runs_and_runs_it_again():
    works = Works()
    works.lanes.ring("a")
    await until(lambda: works.now["a"] == 1)
    works.lanes.interrupt("a")
    await until(lambda: works.runs["a"] == 2)
    assert works.cancelled["a"] == 1
    works.gate.set()
    await until(lambda: not works.lanes.is_busy("a"))


async def test_what_fails_is_tried_again_after_a_while():
    works = Works()
    works.error = RuntimeError("broken")
    works.gate.set()
    works.lanes.ring("a")
    await until(lambda: works.runs["a"] == 1)
    works.error = None
    await until(lambda: works.runs["a"] == 2)


async def test_an_alarm_rings_once_and_a_ring_silences_it():
    works = Works()
    works.gate.set()
    works.lanes.ring_later("a", 0.02)
    await until(lambda: works.runs["a"] == 1)
    works.lanes.ring_later("a", 0.05)
    works.lanes.ring("a")
    await until(lambda: works.runs["a"] == 2)
    await asyncio.sleep(0.1)
    assert works.runs["a"] == 2


async def test_closing_cancels_everything_and_nothing_rings_any_more():
    works = Works()
    works.lanes.ring("a")
    await until(lambda: works.now["a"] == 1)
    await works.lanes.close()
    works.lanes.ring("a")
    assert works.cancelled["a"] == 1
    assert not works.lanes.is_busy("a")

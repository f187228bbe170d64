"""Requests of one kind, carried out together."""

import asyncio
from collections.abc import Sequence

import pytest

from nacre.lib.batches import Batches

pytestmark = pytest.mark.anyio


class Work:
    """Doubles numbers; refuses odd ones by themselves, and breaks on negative ones."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.batches.append(list(numbers))
        await self.gate.wait()
        if any(number < 0 for number in numbers):
            raise ArithmeticError(f"cannot double {numbers}")
        return [2 * number if number % 2 == 0 else ValueError(f"{number} is odd") for number in numbers]


async def test_what_is_asked_meanwhile_makes_up_the_next_batch() -> None:
    work = Work()
    work.gate.clear()
    batches = Batches(work)
    first = asyncio.create_task(batches.ask(2))
    while not work.batches:
        await asyncio.sleep(0)
    others = [asyncio.create_task(batches.ask(number)) for number in (4, 6, 8)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await first == 4
    assert await asyncio.gather(*others) == [8, 12, 16]
    assert work.batches == [[2], [4, 6, 8]]


async def test_no_batch_is_larger_than_it_may_be() -> None:
    work = Work()
    batches = Batches(work, most=2)
    assert await asyncio.gather(*(batches.ask(number) for number in (2, 4, 6))) == [4, 8, 12]
    assert work.batches == [[2, 4], [6]]


async def test_a_request_that_fails_by_itself_leaves_the_others_alone() -> None:
    batches = Batches(Work())
    good, bad = await asyncio.gather(batches.ask(2), batches.ask(3), return_exceptions=True)
    assert good == 4
    assert isinstance(bad, ValueError)


async def test_a_batch_that_breaks_is_tried_one_by_one() -> None:
    work = Work()
    batches = Batches(work)
    answers = await asyncio.gather(*(batches.ask(number) for number in (2, -1, 4)), return_exceptions=True)
    assert answers[0] == 4
    assert answers[2] == 8
    assert isinstance(answers[1], ArithmeticError)
    assert work.batches == [[2, -1, 4], [2], [-1], [4]]
    assert await batches.ask(10) == 20


async def test_what_breaks_for_everybody_is_not_tried_for_everybody() -> None:
    work = Work()
    batches = Batches(work)
    answers = await asyncio.gather(*(batches.ask(-number) for number in range(1, 9)), return_exceptions=True)
    assert all(isinstance(answer, ArithmeticError) for answer in answers)
    assert len(work.batches) == 3


async def test_the_patient_wait_for_more_until_somebody_is_in_a_hurry() -> None:
    work = Work()
    batches = Batches(work, pause_s=60)
    patient = [asyncio.create_task(batches.ask(number, patient=True)) for number in (2, 4)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert not work.batches
    assert await batches.ask(6) == 12
    assert await asyncio.gather(*patient) == [4, 8]
    assert work.batches == [[2, 4, 6]]


async def test_the_patient_do_not_wait_for_ever() -> None:
    work = Work()
    assert await Batches(work, pause_s=0.01).ask(2, patient=True) == 4


async def test_who_has_left_is_not_worked_for() -> None:
    work = Work()
    batches = Batches(work)
    asked = [asyncio.create_task(batches.ask(number)) for number in (2, 4)]
    await asyncio.sleep(0)
    asked[0].cancel()
    assert await asked[1] == 8
    assert work.batches == [[4]]

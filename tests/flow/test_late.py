"""What is told of a test that does not end."""

import asyncio

import pytest

from support.late import told

pytestmark = pytest.mark.anyio


async def held(event: asyncio.Event) -> None:
    await event.wait()


async def test_the_innermost_place_of_every_task_that_waits_is_told() -> None:
    event = asyncio.Event()
    ended, waits = asyncio.create_task(asyncio.sleep(0), name="ended"), asyncio.create_task(held(event), name="waits")
    await ended
    said = told("some test")
    event.set()
    await waits
    assert "some test goes on" in said
    assert "\nended\n" not in said
    here = said.partition("\nwaits\n")[2].partition("\n\n")[0]
    assert here.index("test_late.py") < here.index("Event.wait")

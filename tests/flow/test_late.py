"""What is told of a test that does not end."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from support.late import told

pytestmark = pytest.mark.anyio

TESTS = Path(__file__).parents[1]


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


def test_who_goes_on_for_too_long_is_ended_and_where_it_was_is_said() -> None:
    program = (
        "import time; from support.late import watched\n"
        "with watched('the test', 0.1, 2, patience_s=0.1): time.sleep(100)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=TESTS, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "the test goes on although its time is up" in done.stderr
    assert 'File "<string>", line 2' in done.stderr

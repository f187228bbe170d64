"""Fixtures for every test."""

import faulthandler
import logging
import os
from collections.abc import AsyncGenerator, Generator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import ManualClock
from support.database import ENGINES, Templates, opened
from support.late import watched
from support.postgres import Cluster, cluster

settings.register_profile("nacre", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("nacre")  # a machine that is busy is no failure


LATE_S = 60.0
STILL_S = 300.0
"""For how long a machine may stand still in the middle of a test."""
STANDARD_ERROR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep standard error as it is before a test's output is captured."""
    config.stash[STANDARD_ERROR] = os.dup(2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """End the worker, with what all tasks wait for and the stacks of threads, if a test goes on when its time is up.

    What a time-out raises may be swallowed, by an event loop for one; then nothing else would end the run. After a
    failure pytest calls off what `faulthandler` was to do; that is for code that never lets a thread run.
    """
    mark = item.get_closest_marker("timeout")
    limit = float(mark.args[0] if mark else item.config.getini("timeout"))
    if limit <= 0:  # there is none
        return (yield)
    error = item.config.stash[STANDARD_ERROR]
    faulthandler.dump_traceback_later(limit + LATE_S + STILL_S, exit=True, file=error)
    try:
        with watched(item.nodeid, limit + LATE_S / 2, error, patience_s=LATE_S / 2):
            return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The only event loop that Nacre runs on."""
    return "asyncio"


@pytest.fixture(autouse=True)
def logs_are_left_as_they_were() -> Generator[None]:
    """A program that is run inside a test sets up its logs; the next test has others."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until a test moves it."""
    return ManualClock()


@pytest.fixture
def wakes() -> Wakes:
    """The doorbells that the database of this test rings."""
    return Wakes()


@pytest.fixture(scope="session")
def postgres_cluster() -> Generator[Cluster]:
    """A PostgreSQL server, started when the first test wants it."""
    with cluster() as running:
        yield running


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """Prepared databases to copy."""
    return Templates(tmp_path_factory.mktemp("templates"))


@pytest.fixture(params=ENGINES)
async def database_url(
    request: pytest.FixtureRequest, anyio_backend: str, tmp_path: Path, templates: Templates
) -> AsyncGenerator[str]:
    """The URL of a database with every table and nothing else, once on each engine."""
    if request.param == "sqlite":
        yield await templates.sqlite(tmp_path / "nacre.sqlite")
        return
    running: Cluster = request.getfixturevalue("postgres_cluster")
    name = await templates.postgresql(running)
    yield running.url(name)
    await running.drop(name)


@pytest.fixture
async def database(database_url: str, clock: ManualClock, wakes: Wakes) -> AsyncGenerator[Database]:
    """An open database with every table, once on each engine, on the test's clock and doorbells."""
    async with opened(database_url, clock, wakes) as ready:
        yield ready


@pytest.fixture
async def sqlite_database(
    anyio_backend: str, tmp_path: Path, templates: Templates, clock: ManualClock, wakes: Wakes
) -> AsyncGenerator[Database]:
    """An open SQLite database with every table, for tests of what does not depend on the engine."""
    async with opened(await templates.sqlite(tmp_path / "nacre.sqlite"), clock, wakes) as ready:
        yield ready

"""Events."""

import asyncio

import pytest

from nacre.control.auth.principals import PLATFORM
from nacre.control.services import events, projects
from nacre.control.store.db import Database, Tx
from nacre.control.wake import EVENTS
from nacre.model.access import Role
from nacre.model.events import SYSTEM
from nacre.schema.access import ProjectCreate
from support.access import admin, caller, user
from support.database import opened
from support.patience import within

pytestmark = pytest.mark.anyio


def _tell(tx: Tx, name: str, project: str | None = None, kind: str = "vm.started") -> None:
    events.emit(
        tx,
        type=kind,
        actor=SYSTEM,
        noun="vm",
        object_id=f"vm-{name}",
        object_name=name,
        project=project,
        message=f"{name} started",
        request_id="r-1",
        details={"cpus": 2},
    )


async def _names(database: Database, **how) -> list[str]:
    async with database.read() as rd:
        return [event.object_name for event in await events.list_events(rd, admin("event:list"), **how)]


async def test_an_event_is_stored_whole_and_rings(database: Database) -> None:
    with database.wakes.listen(EVENTS) as bell:
        async with database.write() as tx:
            _tell(tx, "web", project="prj-x")
        assert await bell.wait(0)
    async with database.read() as rd:
        [event] = await events.list_events(rd, admin("event:list"))
        assert await events.latest(rd) == event.cursor
    assert (event.type, event.actor, event.noun, event.object_id) == ("vm.started", SYSTEM, "vm", "vm-web")
    assert (event.project, event.message, event.request_id) == ("prj-x", "web started", "r-1")
    assert event.details == {"cpus": 2}
    assert event.at == database.clock.now()


async def test_a_transaction_that_fails_tells_nothing(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await _fail(database)
    assert await _names(database) == []


async def _fail(database: Database) -> None:
    async with database.write() as tx:
        _tell(tx, "web")
        raise ZeroDivisionError


async def test_a_reader_goes_on_from_any_cursor(database: Database) -> None:
    for name in ("a", "b", "c", "d"):
        async with database.write() as tx:
            _tell(tx, name)
    async with database.read() as rd:
        first, second, *_ = await events.list_events(rd, admin("event:list"), after=0)
    assert await _names(database, after=first.cursor, limit=2) == ["b", "c"]
    assert await _names(database, after=second.cursor) == ["c", "d"]
    assert await _names(database, after=2**70) == []
    assert await _names(database, limit=2) == ["c", "d"]
    assert await _names(database, before=second.cursor) == ["a"]


async def test_events_are_filtered(database: Database) -> None:
    async with database.read() as rd:
        default = (await projects.resolve(rd, "default")).id
    async with database.write() as tx:
        _tell(tx, "a", kind="vm.started")
        _tell(tx, "b", kind="vm.stopped", project=default)
    assert await _names(database, type="vm.stopped") == ["b"]
    assert await _names(database, object="vm-a") == ["a"]
    assert await _names(database, object="b") == ["b"], "by name as well"
    assert await _names(database, noun="image") == []
    assert await _names(database, project="default") == ["b"]
    assert await _names(database, project="no-such") == []


async def test_only_events_of_visible_projects_are_shown(database: Database) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    async with database.write() as tx:
        blue = await projects.create(tx, caller(boss, "project:create"), ProjectCreate(name="blue"))
        default = await projects.resolve(tx, "default")
        _tell(tx, "theirs", project=blue.id)
        _tell(tx, "mine", project=default.id)
        _tell(tx, "everyones", project=None)
    ada = await user(database, "ada", (Role.VIEWER, "default"))
    async with database.read() as rd:
        seen = await events.list_events(rd, caller(ada, "event:list"))
        asked = await events.list_events(rd, caller(ada, "event:list"), project="blue")
    assert [event.object_name for event in seen] == ["mine"]
    assert asked == []


async def test_no_reader_misses_an_event_that_commits_later(database: Database, database_url: str) -> None:
    """A reader that has seen cursor n never finds something new below n."""
    writers, each = 6, 15

    async def write(replica: Database, writer: int) -> None:
        for number in range(each):
            async with replica.write() as tx:
                _tell(tx, f"{writer}-{number}")
                await asyncio.sleep(0)

    async def read() -> list[str]:
        seen: list[str] = []
        cursor = 0
        while len(seen) < writers * each:
            async with database.read() as rd:
                fresh = await events.list_events(rd, admin("event:list"), after=cursor, limit=1000)
            seen += [event.object_name for event in fresh]
            cursor = fresh[-1].cursor if fresh else cursor
            await asyncio.sleep(0.001)
        return seen

    async with opened(database_url, database.clock, database.wakes) as other, within(60):
        seen, *_ = await asyncio.gather(read(), *(write((database, other)[n % 2], n) for n in range(writers)))
    assert len(set(seen)) == writers * each

"""Pages, filters, labels and cursors."""

import base64

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nacre.control.services import projects, users
from nacre.control.services.listing import ListQuery, query
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError
from nacre.lib.clock import ManualClock
from nacre.model.access import PLATFORM, Role
from nacre.schema.access import ProjectCreate, ProjectOut
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio


async def _fill(database: Database, clock: ManualClock, names: str) -> None:
    boss = await user(database, "boss", (Role.ADMIN, PLATFORM))
    who = caller(boss, "project:create")
    for index, name in enumerate(names):
        async with database.write() as tx:
            labels = {"parity": "even" if index % 2 == 0 else "odd", "example.org/x": "y.z"}
            await projects.create(tx, who, ProjectCreate(name=name, labels=labels))
        clock.advance(index % 2)  # some are made at the same time


async def _all(database: Database, **how) -> list[ProjectOut]:
    found: list[ProjectOut] = []
    cursor = None
    while True:
        async with database.read() as rd:
            page = await projects.list_(rd, admin("project:list"), query(cursor=cursor, **how))
        assert len(page.items) <= how.get("limit", 100)
        found += page.items
        cursor = page.next
        if cursor is None:
            return found


async def test_pages_put_together_are_the_list_in_every_order(database: Database, clock: ManualClock) -> None:
    await _fill(database, clock, "fbdaec")
    for sort in ("name", "-name", "created_at", "-created_at"):
        whole = await _all(database, sort=sort)
        assert len(whole) == 7
        for limit in (1, 2, 3, 7):
            assert await _all(database, sort=sort, limit=limit) == whole
    assert [item.name for item in await _all(database, sort="name")] == ["a", "b", "c", "d", "default", "e", "f"]


async def test_a_row_added_or_removed_between_pages_shifts_nothing(database: Database, clock: ManualClock) -> None:
    await _fill(database, clock, "bdf")
    async with database.read() as rd:
        first = await projects.list_(rd, admin("project:list"), query(limit=2))
    async with database.write() as tx:
        await projects.delete(tx, admin("project:delete"), "b")
    async with database.read() as rd:
        second = await projects.list_(rd, admin("project:list"), query(limit=2, cursor=first.next))
    assert [item.name for item in first.items + second.items] == ["b", "d", "default", "f"]
    assert second.next is None


async def test_labels_and_fields_filter(database: Database, clock: ManualClock) -> None:
    await _fill(database, clock, "abc")
    assert [item.name for item in await _all(database, labels={"parity": "even"})] == ["a", "c"]
    assert [item.name for item in await _all(database, labels={"parity": "odd", "example.org/x": "y.z"})] == ["b"]
    assert await _all(database, labels={"nope": "x"}) == []
    assert [item.name for item in await _all(database, filters={"name": "c"})] == ["c"]


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (ListQuery(sort="color"), "invalid_sort"),
        (ListQuery(filters={"color": "red"}), "invalid_filter"),
        (ListQuery(cursor="nonsense!"), "invalid_cursor"),
        (ListQuery(cursor=""), "invalid_cursor"),
        (ListQuery(cursor=base64.urlsafe_b64encode(b'["-name","a","b"]').decode()), "invalid_cursor"),
        (ListQuery(cursor=base64.urlsafe_b64encode(b'["name",3,"b"]').decode()), "invalid_cursor"),
        (ListQuery(sort="created_at", cursor=base64.b64encode(b'["created_at","x","b"]').decode()), "invalid_cursor"),
    ],
)
async def test_a_wrong_question_says_what_is_wrong(sqlite_database: Database, bad: ListQuery, code: str) -> None:
    async with sqlite_database.read() as rd:
        with pytest.raises(InvalidInputError) as refused:
            await projects.list_(rd, admin("project:list"), bad)
    assert refused.value.code == code
    assert refused.value.hint


async def test_what_has_no_labels_cannot_be_filtered_by_them(sqlite_database: Database) -> None:
    async with sqlite_database.read() as rd:
        with pytest.raises(InvalidInputError):
            await users.list_(rd, admin("user:list"), query(labels={"a": "b"}))


@pytest.mark.parametrize("limit", [0, -1, 1001])
def test_a_page_has_one_to_a_thousand_items(limit: int) -> None:
    with pytest.raises(InvalidInputError):
        query(limit=limit)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(raw=st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
async def test_no_cursor_breaks_a_list(sqlite_database: Database, raw: bytes) -> None:
    for cursor in (base64.urlsafe_b64encode(raw).decode(), raw.decode(errors="replace")):
        async with sqlite_database.read() as rd:
            try:
                await projects.list_(rd, admin("project:list"), ListQuery(cursor=cursor))
            except InvalidInputError:
                continue

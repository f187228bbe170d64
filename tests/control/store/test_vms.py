"""Lists of machines are one query, however long, and cheap to show."""

import time
from dataclasses import replace

import msgspec
import pytest
from sqlalchemy import event, insert

from nacre.control.services import vms
from nacre.control.services.listing import ListQuery
from nacre.control.store import vms as store
from nacre.control.store.db import Database
from nacre.model.ids import VmId
from support.cloud import Cloud, by, cloud

pytestmark = pytest.mark.anyio


async def many(platform: Cloud, count: int) -> None:
    """Copies of one running machine."""
    vm = await platform.running("vm-0")
    async with platform.db.write() as tx:
        row = await store.get(tx, vm.id)
        assert row is not None
        copies = [
            vars(replace(row, id=VmId(tx.new_id("vm")), name=f"vm-{number}", labels={"n": str(number)}))
            for number in range(1, count)
        ]
        await tx.connection.execute(insert(store.vms), copies)


async def test_a_thousand_machines_are_listed_by_one_query_and_in_no_time(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    await many(platform, 1000)
    statements: list[str] = []
    reader = database._reader.sync_engine  # pyright: ignore[reportPrivateUsage]

    def count(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        statements.append(statement)

    event.listen(reader, "before_cursor_execute", count)
    best = 60.0
    for _ in range(3):
        statements.clear()
        began = time.process_time()
        async with database.read() as rd:
            page = await vms.list_(rd, by("vm:list"), ListQuery(limit=1000))
        body = msgspec.json.encode(page)
        best = min(best, time.process_time() - began)
    event.remove(reader, "before_cursor_execute", count)
    assert len(page.items) == 1000
    assert len(body) > 100_000
    assert len([line for line in statements if "FROM vms" in line]) == 1
    assert best < 0.2, f"{best:.3f} s of CPU"

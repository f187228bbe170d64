"""What machines leave behind on nodes, from being retired to being gone."""

from datetime import timedelta

import pytest

from nacre.control.gateway import desired
from nacre.control.services import copies, nodes
from nacre.control.services.housekeeping import Keep, tidy
from nacre.control.services.relocation import COPIES_KEPT_FOR
from nacre.control.store import copies as store
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Database
from nacre.errors import NotFoundError
from nacre.lib.clock import ManualClock
from nacre.model.copies import CopyObserved, CopyRef, CopyState, RetiredVm
from nacre.model.ids import VmId
from nacre.model.units import GIB
from nacre.protocol.messages import NodeIntent, Observed
from nacre.schema.moves import CopyOut
from support.cloud import Cloud, by
from support.moving import agent_of, settle, starting

pytestmark = pytest.mark.anyio


async def left_behind(database: Database) -> tuple[Cloud, CopyRow]:
    """A machine that has moved, and what it left."""
    platform, move = await starting(database)
    await settle(platform)
    async with database.read() as rd:
        (copy,) = await store.on_node(rd, move.source)
    return platform, copy


async def reported(platform: Cloud, copy: CopyRow, *seen: CopyObserved, complete: bool = True) -> CopyRow | None:
    """The node reports these copies; return what is on record of `copy` then."""
    async with platform.db.write() as tx:
        await copies.follow(tx, copy.node, Observed(sequence=1, digest="", complete=complete, copies=seen))
    async with platform.db.read() as rd:
        return next((row for row in await store.of_vm(rd, copy.vm) if row.fence == copy.fence), None)


def kept(copy: CopyRow, *, exists: bool = True) -> CopyObserved:
    return CopyObserved(id=copy.vm, fence=copy.fence, exists=exists, size_bytes=GIB if exists else 0)


async def intent(platform: Cloud, copy: CopyRow) -> NodeIntent:
    async with platform.db.read() as rd:
        return await desired.load(rd, copy.node)


async def listed(platform: Cloud, ref: str) -> list[CopyOut]:
    async with platform.db.read() as rd:
        return (await copies.list_(rd, by("node:view"), ref)).items


async def test_a_copy_is_retired_kept_discarded_and_gone(database: Database) -> None:
    platform, copy = await left_behind(database)
    assert copy.state is CopyState.RETIRING
    assert (await intent(platform, copy)).retired == (RetiredVm(id=copy.vm, fence=copy.fence),)
    assert await reported(platform, copy) == copy  # the node has not heard of it yet
    assert await reported(platform, copy, kept(copy), complete=False) == copy

    now = await reported(platform, copy, kept(copy))
    assert now is not None
    assert (now.state, now.size_bytes) == (CopyState.KEPT, GIB)
    (shown,) = await listed(platform, copy.node)
    assert (shown.vm.name, shown.state, shown.size_bytes) == ("web", CopyState.KEPT, GIB)
    assert (await intent(platform, copy)).retired == ()

    async with database.write() as tx:
        discarded = await copies.discard(tx, by("node:discard"), copy.node, ["web"])
    assert [one.state for one in discarded.items] == [CopyState.DISCARDING]
    assert (await intent(platform, copy)).discard == (CopyRef(id=copy.vm, fence=copy.fence),)
    still = await reported(platform, copy, kept(copy))
    assert still is not None
    assert still.state is CopyState.DISCARDING
    assert await reported(platform, copy) is None
    assert await listed(platform, copy.node) == []


async def test_a_node_that_has_nothing_of_it_is_believed(database: Database) -> None:
    platform, copy = await left_behind(database)
    assert await reported(platform, copy, kept(copy, exists=False)) is None


async def test_what_is_discarded_before_the_node_let_go_is_deleted_as_soon_as_it_has(database: Database) -> None:
    platform, copy = await left_behind(database)
    async with database.write() as tx:
        await copies.discard(tx, by("node:discard"), copy.node, [])
    assert (await intent(platform, copy)).retired != ()
    now = await reported(platform, copy, kept(copy))
    assert now is not None
    assert now.state is CopyState.DISCARDING


async def test_copies_are_deleted_after_a_week(database: Database, clock: ManualClock) -> None:
    platform, copy = await left_behind(database)
    await reported(platform, copy, kept(copy))
    clock.advance((COPIES_KEPT_FOR - timedelta(hours=1)).total_seconds())
    async with database.write() as tx:
        assert (await tidy(tx, Keep())).copies == 0
    clock.advance(3600)
    async with database.write() as tx:
        assert (await tidy(tx, Keep())).copies == 1
    assert (await intent(platform, copy)).discard == (CopyRef(id=copy.vm, fence=copy.fence),)


async def test_a_deleted_machine_leaves_no_copies(database: Database) -> None:
    platform, copy = await left_behind(database)
    await reported(platform, copy, kept(copy))
    await platform.verb("delete")
    assert (await intent(platform, copy)).discard == (CopyRef(id=copy.vm, fence=copy.fence),)


async def test_a_copy_that_nobody_knows_of_is_kept_until_an_operator_decides(database: Database) -> None:
    platform, copy = await left_behind(database)
    strange = CopyObserved(id=VmId("vm-00000000000000000000000000"), fence=3, exists=True, size_bytes=5)
    await reported(platform, copy, kept(copy), strange)
    known = {one.vm.id: one for one in await listed(platform, copy.node)}
    assert (known[strange.id].reason, known[strange.id].expires_at) == (copies.UNKNOWN, None)
    await reported(platform, copy, kept(copy))
    assert [one.vm.id for one in await listed(platform, copy.node)] == [copy.vm]


async def test_the_node_counts_its_copies_and_says_which_it_has_not(database: Database) -> None:
    _, copy = await left_behind(database)
    async with database.read() as rd:
        assert (await nodes.show(rd, by("node:view"), copy.node)).copies == 1
    async with database.write() as tx:
        with pytest.raises(NotFoundError, match="no copy of nobody"):
            await copies.discard(tx, by("node:discard"), copy.node, ["nobody"])


async def test_reports_reach_the_copies_through_the_gateway(database: Database) -> None:
    platform, copy = await left_behind(database)
    await agent_of(platform, copy.node).report(complete=True)
    async with database.read() as rd:
        (row,) = await store.of_vm(rd, copy.vm)
    assert row.state is CopyState.RETIRING

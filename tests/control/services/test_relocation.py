"""Taking a machine off its node: the placement ends, what it leaves is remembered, and nothing is carried along."""

from dataclasses import replace

import pytest

from nacre.control.services import failover_rules, relocation
from nacre.control.store import copies, nodes, placements
from nacre.control.store import vms as store
from nacre.control.store.db import Database
from nacre.control.store.placements import Written
from nacre.control.store.vms import VmRow
from nacre.model.copies import CopyState
from nacre.model.ids import StreamId, VmId
from nacre.model.moves import LeaveReason
from nacre.model.placement import Decision, Strategy
from nacre.model.vms import Desired, HaPolicy, Phase
from nacre.schema.vms import VmUpdate
from support.cloud import cloud

pytestmark = pytest.mark.anyio

DECISION = Decision(node=None, strategy=Strategy.RANDOM, considered=1, fitting=1)


async def detached(database: Database, row: VmRow) -> VmRow:
    async with database.write() as tx:
        assert row.node is not None
        await nodes.get(tx, row.node, lock=True)
        return await relocation.detach(tx, row, reason=LeaveReason.USER)


async def current(database: Database, vm: VmId) -> VmRow:
    async with database.read() as rd:
        row = await store.get(rd, vm)
    assert row is not None
    return row


async def test_what_is_left_behind_is_remembered_and_the_machine_waits_as_if_it_had_never_run(
    database: Database,
) -> None:
    platform = await cloud(database)
    before = await current(database, (await platform.running()).id)
    after = await detached(database, before)
    assert after == await current(database, before.id)
    assert (after.node, after.phase, after.run, after.observed_generation) == (None, Phase.PENDING, None, 0)
    assert (after.generation, after.fence) == (before.generation + 1, before.fence)
    async with database.read() as rd:
        (copy,) = await copies.of_vm(rd, before.id)
    assert (copy.node, copy.fence, copy.state) == (before.node, before.fence, CopyState.RETIRING)


async def test_one_that_should_be_off_is_off_at_once(database: Database) -> None:
    platform = await cloud(database)
    before = await current(database, (await platform.running()).id)
    after = await detached(database, replace(before, desired=Desired.STOPPED))
    assert (after.phase, after.observed_generation) == (Phase.STOPPED, after.generation)


@pytest.mark.parametrize("way", ["placed", "moved"])
async def test_a_node_that_is_new_to_a_machine_need_not_report_before_it_may_be_given_up(
    database: Database, way: str
) -> None:
    """It has never been told of it as a machine that is not to be restarted elsewhere."""
    platform = await cloud(database)
    vm = await platform.running()
    changed = await platform.verb("update", vm.id, VmUpdate(ha=HaPolicy.RESTART))
    row = await current(database, changed.resource.id)
    assert row.node is not None
    assert row.ha_since == row.generation
    assert not failover_rules.guarded(row)
    if way == "moved":
        async with database.write() as tx:
            await nodes.get(tx, row.node, lock=True)
            row = await relocation.detach(tx, row, reason=LeaveReason.USER, to=row.node)
    else:
        node = row.node
        row = await detached(database, row)
        async with database.write() as tx:
            await placements.lock_waiting(tx, [row.id])
            await placements.place(tx, [Written(vm=row.id, node=node, decision=DECISION)])
    assert failover_rules.guarded(await current(database, row.id))


async def test_a_node_that_took_a_running_machine_in_is_believed_only_once_it_reports(database: Database) -> None:
    """Its process was begun with what was wanted then, which may have been a machine without a guard."""
    platform = await cloud(database)
    vm = await platform.running()
    row = await current(database, (await platform.verb("update", vm.id, VmUpdate(ha=HaPolicy.RESTART))).resource.id)
    assert row.node is not None
    async with database.write() as tx:
        await nodes.get(tx, row.node, lock=True)
        stream = StreamId("str-1")
        await relocation.detach(tx, row, reason=LeaveReason.USER, to=row.node, arrived_by=stream)
    row = await current(database, row.id)
    assert not failover_rules.guarded(row)
    assert failover_rules.guarded(replace(row, observed_generation=row.generation))

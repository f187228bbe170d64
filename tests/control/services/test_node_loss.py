"""Nodes out of reach are evacuated and removed: what may be taken off them, and what stays."""

from dataclasses import replace

import pytest

from nacre.control.services import node_loss, node_signs, nodes
from nacre.control.store import ca as certificates
from nacre.control.store import copies, moves
from nacre.control.store import nodes as store
from nacre.control.store import vms as vm_store
from nacre.control.store.ca import NodeCertificateRow
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow
from nacre.errors import ConflictError
from nacre.lib.clock import ManualClock
from nacre.model.copies import CopyState
from nacre.model.ids import NodeId
from nacre.model.moves import MoveState
from nacre.model.nodes import NodeState, NodeWish, move
from nacre.model.vms import Phase
from nacre.schema.moves import NodeDrain, NodeEvacuate
from nacre.schema.nodes import NodeEvacuated
from support.cloud import Cloud, by, cloud, facts
from support.ledger import event_types, events_of
from support.moving import begun, move_of, once, row_of, settle, silence, stopping

pytestmark = pytest.mark.anyio


async def node_of(database: Database, ref: str = "node-1") -> NodeRow:
    async with database.read() as rd:
        row = await store.get(rd, ref)
    assert row is not None
    return row


async def give_up(database: Database, node: NodeId) -> None:
    async with database.write() as tx:
        row = await store.get(tx, node, lock=True)
        assert row is not None
        await store.save(tx, row, replace(row, state=move(row.state, NodeState.FAILED), tenure=row.tenure + 1))


async def evacuated(database: Database, *, confirm_dead: bool = False, ref: str = "node-1") -> NodeEvacuated:
    async with database.write() as tx:
        return await nodes.evacuate(tx, by("node:evacuate"), ref, NodeEvacuate(confirm_dead=confirm_dead))


async def lost(database: Database, **fields: object) -> tuple[Cloud, NodeId]:
    """Two nodes; the one that a machine runs on is out of reach."""
    platform = await cloud(database, node_count=2)
    await platform.running("web", **fields)
    node = (await row_of(platform)).node
    assert node is not None
    await silence(platform, node)
    return platform, node


async def test_only_a_person_can_know_that_a_machine_without_ha_is_off(database: Database) -> None:
    platform, node = await lost(database)
    done = await evacuated(database, ref=node)
    assert (done.taken, [one.vm for one in done.left]) == ((), ["web"])
    assert "only a person can know" in done.left[0].reason
    assert (done.node.wish, done.node.state) == (NodeWish.CORDONED, NodeState.OFFLINE)

    before = await node_of(database, node)
    done = await evacuated(database, confirm_dead=True, ref=node)
    assert (done.taken, done.left) == (("web",), ())
    assert (await node_of(database, node)).tenure > before.tenure
    row = await row_of(platform)
    assert (row.node, row.phase) == (None, Phase.PENDING)
    async with database.read() as rd:
        (left,) = await copies.on_node(rd, node)
    assert (left.state, left.reason) == (CopyState.RETIRING, "evacuation")
    told = [event for event in await events_of(database, node) if event.type == "node.evacuated"]
    assert "says that its host is off" in told[0].message
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING


def test_a_machine_held_by_guards_needs_its_node_to_be_given_up_or_a_word_and_time(
    clock: ManualClock, guarded_vm: vm_store.VmRow, silent_node: NodeRow
) -> None:
    now = clock.now()
    given_up = replace(silent_node, state=NodeState.FAILED)
    assert node_loss.why_not(given_up, guarded_vm, now, confirm_dead=False) == ""
    assert "given up" in node_loss.why_not(silent_node, guarded_vm, now, confirm_dead=False)
    assert "lease" in node_loss.why_not(silent_node, guarded_vm, now, confirm_dead=True)
    clock.advance(60)
    assert node_loss.why_not(silent_node, guarded_vm, clock.now(), confirm_dead=True) == ""


@pytest.fixture
async def silent_node(sqlite_database: Database, clock: ManualClock) -> NodeRow:
    await cloud(sqlite_database)
    row = await node_of(sqlite_database)
    return replace(row, state=NodeState.OFFLINE, lease_s=35.0, last_seen_at=clock.now())


@pytest.fixture
async def guarded_vm(sqlite_database: Database, silent_node: NodeRow) -> vm_store.VmRow:
    platform = Cloud(db=sqlite_database, project="", image="", agents=[])  # type: ignore[arg-type]
    await platform.create("web")
    row = await row_of(platform)
    return replace(row, ha_since=1, node=silent_node.id)


async def test_a_node_that_was_given_up_and_comes_back_is_what_its_operator_wants(database: Database) -> None:
    platform, node = await lost(database)
    await give_up(database, node)
    await evacuated(database, confirm_dead=True, ref=node)
    async with database.write() as tx:
        await node_signs.connected(tx, node, facts(), "instance-2")
    back = await node_of(database, node)
    assert (back.state, back.wish) == (NodeState.CORDONED, NodeWish.CORDONED)
    assert platform.agents


async def test_a_node_in_maintenance_may_be_silent(database: Database) -> None:
    await cloud(database)
    async with database.write() as tx:
        await nodes.maintenance(tx, by("node:drain"), "node-1", NodeDrain())
    platform = Cloud(db=database, project="", image="", agents=[])  # type: ignore[arg-type]
    await settle(platform)
    row = await node_of(database)
    assert row.state is NodeState.MAINTENANCE
    async with database.write() as tx:
        assert not await node_signs.silent(tx, row.id, row.last_seen_at)
    async with database.read() as rd:
        assert row.id not in await node_signs.last_seen(rd)


async def test_a_node_that_was_silent_in_maintenance_is_not_taken_for_ready(
    database: Database, clock: ManualClock
) -> None:
    await cloud(database)
    async with database.write() as tx:
        await nodes.maintenance(tx, by("node:drain"), "node-1", NodeDrain())
    await settle(Cloud(db=database, project="", image="", agents=[]))  # type: ignore[arg-type]
    clock.advance(3600)
    async with database.write() as tx:
        assert (await nodes.uncordon(tx, by("node:cordon"), "node-1")).state is NodeState.OFFLINE
        await node_signs.connected(tx, (await node_of(database)).id, facts(), "instance-2")
    assert (await node_of(database)).state is NodeState.READY


async def test_an_empty_node_out_of_reach_can_be_put_into_maintenance(database: Database) -> None:
    platform = await cloud(database)
    await silence(platform, platform.agent.node)
    async with database.write() as tx:
        assert (await nodes.maintenance(tx, by("node:drain"), "node-1", NodeDrain())).state is NodeState.MAINTENANCE


async def certified(database: Database, node: NodeId) -> None:
    async with database.write() as tx:
        row = NodeCertificateRow(serial="ab", node=node, issued_at=tx.now(), expires_at=tx.now())
        await certificates.add_certificate(tx, row)


async def test_a_removed_nodes_certificates_are_revoked_with_it(database: Database) -> None:
    platform = await cloud(database)
    await certified(database, platform.agent.node)
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), "node-1")
    async with database.read() as rd:
        assert (await certificates.certificates(rd, ["ab"]))["ab"].revoked_at is not None


async def test_a_dead_node_is_freed_of_everything_and_forgotten(database: Database) -> None:
    platform = await cloud(database, node_count=3)
    for name in ("a", "b", "c"):
        await platform.running(name)
    node = (await row_of(platform, "a")).node
    assert node is not None
    await platform.verb("delete", "a")
    other = next(agent.node for agent in platform.agents if agent.node != node)
    homes = {name: (await row_of(platform, name)).node for name in ("b", "c")}
    coming = next(name for name, home in homes.items() if home != node)
    move_ = await begun(platform, coming, pinned=node)
    await once(platform)
    await certified(database, node)
    await silence(platform, node)
    with pytest.raises(ConflictError, match="has 1 machines"):
        async with database.write() as tx:
            await nodes.remove(tx, by("node:delete"), node)
    with pytest.raises(ConflictError, match="may still run there"):
        async with database.write() as tx:
            await nodes.remove(tx, by("node:delete"), node, force=True)
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), node, force=True, confirm_dead=True)
    async with database.read() as rd:
        assert await store.get(rd, node) is None
        assert await copies.on_node(rd, node) == []
        assert await moves.reserved(rd) == {}
        assert (await certificates.certificates(rd, ["ab"]))["ab"].revoked_at is not None
        assert len(await vm_store.on_node(rd, other)) <= 2
    await once(platform)
    assert (await move_of(platform, move_)).state in {MoveState.PENDING, MoveState.FAILED}
    assert "vm.deleted" in await event_types(database, (await _gone(database, "a")))


async def _gone(database: Database, name: str) -> str:
    async with database.read() as rd:
        from sqlalchemy import select

        from nacre.control.store.events import events

        query = select(events.c.object_id).where(events.c.object_name == name, events.c.type == "vm.deleted")
        return str((await rd.connection.execute(query)).scalar_one())


async def test_a_node_that_lives_is_not_freed_by_force(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    async with database.write() as tx:
        with pytest.raises(ConflictError, match="is ready and runs"):
            await nodes.remove(tx, by("node:delete"), "node-1", force=True, confirm_dead=True)


async def test_a_node_that_keeps_copies_is_forgotten_by_force_only(database: Database) -> None:
    platform, move_ = await stopping(database)
    await settle(platform)
    with pytest.raises(ConflictError, match="keeps 1 copies"):
        async with database.write() as tx:
            await nodes.remove(tx, by("node:delete"), move_.source)
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), move_.source, force=True)
    async with database.read() as rd:
        assert await store.get(rd, move_.source) is None
    assert (await move_of(platform, move_)).state is MoveState.DONE


async def test_a_node_is_removed_while_it_is_drained(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    await platform.running()
    node = (await row_of(platform)).node
    assert node is not None
    async with database.write() as tx:
        await nodes.drain(tx, by("node:drain"), node, NodeDrain())
    await once(platform)
    await silence(platform, node)
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), node, force=True, confirm_dead=True)
    async with database.read() as rd:
        assert await moves.under_way(rd, limit=5) == []
    platform.agents[:] = [agent for agent in platform.agents if agent.node != node]
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING

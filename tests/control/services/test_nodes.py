"""Nodes as operators and their agents see them."""

from datetime import timedelta

import msgspec
import pytest

from nacre.control.gateway import desired
from nacre.control.services import node_signs, nodes
from nacre.control.services.listing import ListQuery
from nacre.control.store import nodes as store
from nacre.control.store.db import Database
from nacre.errors import (
    ConflictError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
    UnauthenticatedError,
)
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import Condition, ConditionKind, NodeState, NodeWish, Usage
from nacre.model.placement import Taint
from nacre.model.units import GIB
from nacre.model.vms import Phase
from nacre.protocol.messages import HeldVm
from nacre.schema.nodes import NodeOut, NodeUpdate
from support.access import user
from support.cloud import by, cloud, facts
from support.ledger import event_types, events_of

pytestmark = pytest.mark.anyio

USAGE = Usage(load1=0.5, memory_bytes=GIB, disk_bytes=GIB)


async def shown(database: Database, ref: str = "node-1") -> NodeOut:
    async with database.read() as rd:
        return await nodes.show(rd, by("node:view"), ref)


async def silence(database: Database, node: NodeId) -> bool:
    async with database.write() as tx:
        row = await store.get(tx, node)
        assert row is not None
        return await node_signs.silent(tx, node, row.last_seen_at)


async def test_a_node_shows_what_its_agent_says_and_what_is_reserved(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("web", memory_bytes=2 * GIB, cpus=2)
    async with database.write() as tx:
        await node_signs.heartbeat(tx, platform.agent.node, USAGE, ())
    node = await shown(database)
    assert (node.state, node.hostname, node.usage) == (NodeState.READY, "host", USAGE)
    assert (node.vms, node.reserved_cpus, node.reserved_memory_bytes) == (1, 2, 2 * GIB)
    assert node.capacity is not None
    assert node.capacity.cpus == 8


async def test_nodes_are_listed_by_state_and_label(database: Database) -> None:
    await cloud(database, node_count=3)
    async with database.write() as tx:
        await nodes.cordon(tx, by("node:cordon"), "node-2")
        await nodes.update(tx, by("node:update"), "node-3", NodeUpdate(labels={"disk": "fast"}))
    async with database.read() as rd:
        caller = by("node:list")
        assert [node.name for node in (await nodes.list_(rd, caller, ListQuery())).items] == [
            "node-1",
            "node-2",
            "node-3",
        ]
        cordoned = await nodes.list_(rd, caller, ListQuery(filters={"state": "cordoned"}))
        assert [node.name for node in cordoned.items] == ["node-2"]
        fast = await nodes.list_(rd, caller, ListQuery(labels={"disk": "fast"}))
        assert [node.name for node in fast.items] == ["node-3"]


async def test_nodes_are_for_those_with_a_role_on_the_platform(database: Database) -> None:
    await cloud(database)
    tenant = await user(database, "tina", (Role.ADMIN, "default"))
    async with database.read() as rd:
        with pytest.raises(ForbiddenError):
            await nodes.list_(rd, by("node:list", tenant), ListQuery())
        with pytest.raises(ForbiddenError):
            await nodes.show(rd, by("node:view", tenant), "node-1")


async def test_an_operators_label_covers_the_agents(database: Database) -> None:
    platform = await cloud(database, told=msgspec.structs.replace(facts(), labels={"rack": "1", "disk": "slow"}))
    before = await shown(database)
    async with database.write() as tx:
        changed = await nodes.update(tx, by("node:update"), "node-1", NodeUpdate(labels={"disk": "fast"}))
    assert changed.labels == {"rack": "1", "disk": "fast"}
    assert changed.etag != before.etag
    async with database.write() as tx:
        told = msgspec.structs.replace(facts(), labels={"rack": "2", "disk": "slow"})
        await node_signs.heartbeat(tx, platform.agent.node, USAGE, (), told)
        with pytest.raises(PreconditionError):
            await nodes.update(tx, by("node:update"), "node-1", NodeUpdate(labels={}), if_match=before.etag)
    assert (await shown(database)).labels == {"rack": "2", "disk": "fast"}


async def test_a_cordon_outlives_an_outage(database: Database) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    async with database.write() as tx:
        await nodes.cordon(tx, by("node:cordon"), "node-1")
    assert await silence(database, node)
    assert (await shown(database)).state is NodeState.OFFLINE
    async with database.write() as tx:
        await node_signs.connected(tx, node, facts(), "instance-2")
    assert (await shown(database)).state is NodeState.CORDONED
    async with database.write() as tx:
        assert (await nodes.uncordon(tx, by("node:cordon"), "node-1")).state is NodeState.READY


async def test_a_machine_on_a_silent_node_is_in_an_unknown_phase_until_the_node_is_back(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    assert await silence(database, platform.agent.node)
    vm = await platform.vm("web")
    assert (vm.phase, vm.conditions.phase, vm.conditions.converged) == (Phase.UNKNOWN, "unknown", False)
    assert vm.node is not None
    async with database.write() as tx:
        await node_signs.heartbeat(tx, platform.agent.node, USAGE, ())
    vm = await platform.vm("web")
    assert (vm.phase, vm.conditions.converged) == (Phase.RUNNING, True)
    assert (await event_types(database, platform.agent.node))[-2:] == ["node.offline", "node.ready"]


async def test_a_sign_of_life_keeps_a_node_from_being_called_silent(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    async with database.read() as rd:
        before = (await node_signs.last_seen(rd))[node]
    clock.advance(5)
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, ())
    async with database.write() as tx:
        assert not await node_signs.silent(tx, node, before)
    assert (await shown(database)).state is NodeState.READY


async def test_conditions_are_told_when_they_come_and_go(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    condition = Condition(
        kind=ConditionKind.DISK_PRESSURE, message="the disk is 95 % full", hint="free some", since=clock.now()
    )
    for conditions in ((condition,), (condition,), ()):
        async with database.write() as tx:
            await node_signs.heartbeat(tx, node, USAGE, conditions)
    assert (await event_types(database, node))[-2:] == ["node.condition_raised", "node.condition_cleared"]
    assert (await events_of(database, node))[-2].details["condition"] == "DiskPressure"


async def test_what_a_node_holds_unasked_is_shown_and_told_once(database: Database, clock: ManualClock) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    stranger = HeldVm(id=VmId("vm-stranger"), name="old", running=True, since=clock.now())
    known = HeldVm(id=vm.id, name="web", running=True, since=clock.now())
    for _ in range(3):
        await platform.agent.report(complete=True, held=(stranger, known))
    (condition,) = (await shown(database)).conditions
    assert condition.kind is ConditionKind.HELD_WORKLOADS
    assert "old (running)" in condition.message
    assert "web" not in condition.message
    await platform.agent.report(complete=True)
    assert (await shown(database)).conditions == ()
    types = await event_types(database, platform.agent.node)
    assert types.count("node.condition_raised") == 1
    assert types.count("node.condition_cleared") == 1
    assert (await platform.vm("web")).phase is Phase.RUNNING


async def test_a_node_with_machines_stays_and_one_without_can_go(database: Database) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    await platform.running()
    async with database.write() as tx:
        with pytest.raises(ConflictError) as refused:
            await nodes.remove(tx, by("node:delete"), "node-1")
    assert refused.value.code == "node_has_vms"
    await platform.verb("delete")
    await platform.converge()
    async with database.write() as tx:
        await nodes.remove(tx, by("node:delete"), "node-1")
    with pytest.raises(NotFoundError):
        await shown(database)
    async with database.write() as tx:
        assert await node_signs.known(tx, {node}) == set()
        with pytest.raises(UnauthenticatedError) as unknown:
            await node_signs.connected(tx, node, facts(), "instance-2")
    assert unknown.value.code == "node_removed"


async def test_a_restart_of_the_host_is_told(database: Database) -> None:
    platform = await cloud(database)
    node = platform.agent.node
    async with database.write() as tx:
        await node_signs.disconnected(tx, node, "instance-1")
        await node_signs.connected(tx, node, msgspec.structs.replace(facts(), boot_id="boot-2"), "instance-2")
        await node_signs.disconnected(tx, node, "instance-1")
    assert (await event_types(database, node))[-3:] == ["node.disconnected", "node.connected", "node.rebooted"]


async def test_the_word_to_tear_down_ends_with_the_sync_it_was_for_or_with_time(
    database: Database, clock: ManualClock
) -> None:
    platform = await cloud(database)
    await platform.running()
    async with database.write() as tx:
        await nodes.allow_teardown(tx, by("node:update"), "node-1")

    async def allowed() -> bool:
        async with database.read() as rd:
            return (await desired.load(rd, platform.agent.node)).teardown_allowed

    assert await allowed()
    clock.advance(timedelta(minutes=11).total_seconds())
    assert not await allowed()
    async with database.write() as tx:
        await nodes.allow_teardown(tx, by("node:update"), "node-1")
    assert await allowed()
    await platform.agent.sync()
    assert not await allowed()


async def test_taints_and_place_are_an_operators(database: Database) -> None:
    await cloud(database)
    taint = Taint(key="gpu", value="a100")
    async with database.write() as tx:
        body = NodeUpdate(taints=(taint, taint), region="eu", zone="eu-1")
        changed = await nodes.update(tx, by("node:update"), "node-1", body)
        assert (changed.taints, changed.region, changed.zone) == ((taint,), "eu", "eu-1")
        assert str(taint) == "gpu=a100:no-schedule"
        with pytest.raises(InvalidInputError, match="no taint"):
            await nodes.update(tx, by("node:update"), "node-1", NodeUpdate(taints=(Taint(key="no key"),)))
        assert (await nodes.update(tx, by("node:update"), "node-1", NodeUpdate(taints=()))).taints == ()
    told = (await events_of(database, changed.id))[-2]
    assert (told.type, told.details["after"]["region"]) == ("node.updated", "eu")


async def test_what_is_wished_of_a_node_is_seen_and_found_while_it_is_out_of_reach(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    async with database.write() as tx:
        await nodes.cordon(tx, by("node:cordon"), "node-1")
    assert await silence(database, platform.agents[0].node)
    node = await shown(database)
    assert (node.state, node.wish) == (NodeState.OFFLINE, NodeWish.CORDONED)
    async with database.read() as rd:
        found = await nodes.list_(rd, by("node:list"), ListQuery(filters={"wish": "cordoned"}))
    assert [one.name for one in found.items] == ["node-1"]

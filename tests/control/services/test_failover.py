"""Giving up nodes and taking machines off them, in the database; and that a lease renewed meanwhile prevents both."""

import asyncio
from dataclasses import replace

import pytest

from nacre.control.gateway import desired
from nacre.control.reconcilers.vms import Placer
from nacre.control.services import failover, node_signs
from nacre.control.services.failover import Terms, Watching
from nacre.control.services.failover_rules import wait_s
from nacre.control.store import copies, node_leases
from nacre.control.store import nodes as node_store
from nacre.control.store import vms as vm_store
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError, NotFoundError
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, Usage
from nacre.model.vms import Desired, Phase
from nacre.schema.failover import FailoverConfirm
from support.cloud import Cloud, by, cloud, put
from support.ledger import event_types, events_of

pytestmark = pytest.mark.anyio

TERMS = Terms(lease_s=35, per_s=5, max_share=0.5)
USAGE = Usage(load1=0, memory_bytes=0, disk_bytes=0)


def watching(silent_s: float = 0.0) -> Watching:
    return Watching(terms=TERMS, silence=lambda _row: silent_s)


async def node_row(database: Database, node: NodeId) -> NodeRow:
    async with database.read() as rd:
        row = await node_store.get(rd, node)
    assert row is not None
    return row


async def vm_row(platform: Cloud, name: str = "web") -> VmRow:
    async with platform.db.read() as rd:
        row = await vm_store.named(rd, platform.project, name)
    assert row is not None
    return row


async def change(database: Database, node: NodeId, **values: object) -> None:
    async with database.write() as tx:
        before = await node_store.get(tx, node, lock=True)
        assert before is not None
        await node_store.save(tx, before, replace(before, **values))


async def renew(database: Database, node: NodeId, tenure: int = 1) -> bool:
    async with database.write() as tx:
        return bool(await failover.renew(tx, [(node, tenure)], 35))


async def give_up(database: Database, node: NodeId, *, tenure: int = 1, renewals: int = 1) -> bool:
    async with database.write() as tx:
        return await failover.give_up(tx, node, tenure=tenure, renewals=renewals, silent_s=36.5)


async def take(platform: Cloud, node: NodeId, name: str = "web") -> bool:
    row = await vm_row(platform, name)
    async with platform.db.write() as tx:
        return await failover.take(tx, row.id, node)


async def lost(database: Database, *, node_count: int = 2) -> tuple[Cloud, NodeId]:
    """A platform whose machine `web` runs under a guard on a node that has renewed once and is offline now."""
    platform = await cloud(database, node_count=node_count)
    await platform.running(ha="restart")
    node = (await vm_row(platform)).node
    assert node is not None
    assert await renew(database, node)
    await change(database, node, state=NodeState.OFFLINE)
    return platform, node


async def test_a_machine_of_a_lost_node_runs_elsewhere_and_its_old_copy_is_retired(database: Database) -> None:
    platform, node = await lost(database)
    before = await vm_row(platform)
    assert await give_up(database, node)
    assert (await node_row(database, node)).state is NodeState.FAILED
    assert await take(platform, node)
    async with database.read() as rd:
        (left,) = await copies.on_node(rd, node)
        told = await desired.load(rd, node)
    assert (left.vm, left.fence, left.reason) == (before.id, before.fence, "failover")
    assert [(retired.id, retired.fence) for retired in told.retired] == [(before.id, before.fence)]
    assert told.vms == ()
    await Placer(database).once()
    for agent in platform.agents:
        if agent.node != node:
            await agent.sync()
    after = await vm_row(platform)
    assert after.node not in {None, node}
    assert (after.phase, after.fence) == (Phase.RUNNING, before.fence + 1)
    assert "vm.failover" in await event_types(database, before.id)
    (told_of,) = [event for event in await events_of(database, node) if event.type == "node.failed"]
    assert told_of.actor_name == "nacre"
    assert told_of.details["silent_s"] == 36.5


async def test_who_fails_over_before_it_has_said_a_word_is_taken_on(database: Database) -> None:
    """A machine that was taken off one lost node, and whose next node is lost before it has reported anything."""
    platform, node = await lost(database, node_count=3)
    assert await give_up(database, node)
    assert await take(platform, node)
    await Placer(database).once()
    second = (await vm_row(platform)).node
    assert second is not None
    await change(database, second, state=NodeState.OFFLINE)
    assert await give_up(database, second, renewals=0)
    assert await take(platform, second)


async def test_a_node_that_has_renewed_since_it_was_counted_is_not_given_up(database: Database) -> None:
    _platform, node = await lost(database)
    assert await renew(database, node)
    assert not await give_up(database, node, renewals=1)
    assert (await node_row(database, node)).state is NodeState.OFFLINE


@pytest.mark.parametrize("state", [NodeState.READY, NodeState.CORDONED, NodeState.MAINTENANCE, NodeState.FAILED])
async def test_only_a_node_that_is_offline_is_given_up(database: Database, state: NodeState) -> None:
    _platform, node = await lost(database)
    await change(database, node, state=state)
    assert not await give_up(database, node)


async def test_a_node_that_was_given_up_gets_no_lease_for_what_it_knew(database: Database) -> None:
    platform, node = await lost(database)
    assert await give_up(database, node)
    assert not await renew(database, node, 1)
    assert (await node_row(database, node)).state is NodeState.FAILED
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, ())
    assert (await node_row(database, node)).state is NodeState.READY
    assert not await renew(database, node, 1)
    assert await renew(database, node, 2)
    assert not await take(platform, node)


async def test_a_node_that_asks_for_its_newest_tenure_is_heard_and_keeps_what_was_not_taken(
    database: Database,
) -> None:
    """An agent that was stopped and goes on: its link is still there, and it pulls and renews before it beats."""
    platform, node = await lost(database)
    other = next(agent.node for agent in platform.agents if agent.node != node)
    assert await give_up(database, node)
    async with database.write() as tx:
        granted = await failover.renew(tx, [(node, 2), (node, 1), (other, 1), (other, 9)], 35)
    assert granted == {(node, 2), (other, 1)}
    row = await node_row(database, node)
    assert (row.state, row.renewals, row.lease_s) == (NodeState.READY, 2, 35)
    assert (await event_types(database, node))[-1] == "node.ready"
    assert not await take(platform, node)


async def test_a_node_that_comes_back_in_between_keeps_what_was_not_taken(database: Database) -> None:
    platform, node = await lost(database, node_count=1)
    await platform.create("db", ha="restart")
    async with database.write() as tx:
        row = await vm_row(platform, "db")
        await put(tx, row.id, node)
    assert await give_up(database, node)
    assert await take(platform, node)
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, ())
    assert not await take(platform, node, "db")
    assert (await vm_row(platform, "db")).node == node


async def test_what_a_node_was_told_before_a_machine_was_taken_is_worth_no_lease(database: Database) -> None:
    """An agent that pulls while its node is given up, before it is known to be heard, and asks for its lease later."""
    platform, node = await lost(database)
    assert await give_up(database, node)
    async with database.read() as rd:
        told = await desired.load(rd, node)
    assert [vm.name for vm in told.vms] == ["web"]
    assert await take(platform, node)
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, ())
    assert not await renew(database, node, told.tenure)
    async with database.read() as rd:
        now = await desired.load(rd, node)
    assert now.vms == ()
    assert await renew(database, node, now.tenure)


@pytest.mark.parametrize("wanted", [Desired.STOPPED, Desired.ABSENT])
async def test_what_need_not_run_is_left(database: Database, wanted: Desired) -> None:
    platform, node = await lost(database)
    await platform.verb("stop" if wanted is Desired.STOPPED else "delete")
    assert await give_up(database, node)
    assert not await take(platform, node)
    async with database.read() as rd:
        assert (await failover.load(rd)).waiting == []


async def test_a_machine_without_restarts_elsewhere_stays_and_nobody_knows_its_phase(database: Database) -> None:
    platform, node = await lost(database, node_count=1)
    await change(database, node, state=NodeState.READY)
    await platform.running("plain")
    await change(database, node, state=NodeState.OFFLINE)
    assert await give_up(database, node)
    assert not await take(platform, node, "plain")
    shown = await platform.vm("plain")
    assert shown.phase is Phase.UNKNOWN
    assert not shown.conditions.converged
    async with database.read() as rd:
        assert (await vm_store.phases(rd))["unknown"] == 2


async def test_a_node_is_fenced_from_when_it_is_given_up_until_it_is_heard(database: Database) -> None:
    _platform, node = await lost(database)

    async def fenced() -> bool:
        async with database.read() as rd:
            return await failover.surely_fenced(rd, node)

    assert not await fenced()
    await give_up(database, node)
    assert await fenced()
    async with database.write() as tx:
        await node_signs.heartbeat(tx, node, USAGE, ())
    assert not await fenced()


# Races


async def waits(work: "asyncio.Task[bool]") -> None:
    """Let `work` come as far as it can: to the row that somebody else has locked."""
    done, _ = await asyncio.wait([work], timeout=0.3)
    assert not done


async def test_a_renewal_that_waits_for_a_node_to_be_given_up_is_not_granted(database: Database) -> None:
    _platform, node = await lost(database)
    async with database.write() as tx:
        assert await failover.give_up(tx, node, tenure=1, renewals=1, silent_s=36.5)
        late = asyncio.create_task(renew(database, node))
        await waits(late)
    assert await late is False
    assert (await node_row(database, node)).renewals == 1


async def test_who_gives_up_and_waits_for_a_renewal_does_not_give_up(database: Database) -> None:
    _platform, node = await lost(database)
    async with database.write() as tx:
        assert await node_leases.renew(tx, [(node, 1)], 35)
        late = asyncio.create_task(give_up(database, node))
        await waits(late)
    assert await late is False
    assert (await node_row(database, node)).state is NodeState.OFFLINE


async def test_of_two_that_take_the_same_machine_one_does(database: Database) -> None:
    platform, node = await lost(database)
    await give_up(database, node)
    assert sorted(await asyncio.gather(take(platform, node), take(platform, node))) == [False, True]
    assert (await event_types(database, (await vm_row(platform)).id)).count("vm.failover") == 1


async def test_renewals_heartbeats_and_giving_up_at_once_leave_one_truth(database: Database) -> None:
    platform, node = await lost(database, node_count=4)
    others = [agent.node for agent in platform.agents]

    async def renewals() -> list[bool]:
        async with database.write() as tx:
            granted = await node_leases.renew(tx, [(one, 1) for one in reversed(others)], 35)
        return [(node, 1) in granted]

    async def beats() -> list[bool]:
        async with database.write() as tx:
            for one in sorted(others):
                await node_signs.heartbeat(tx, one, USAGE, ())
        return []

    async def giving_up() -> list[bool]:
        return [not await give_up(database, node)]

    answers = await asyncio.gather(renewals(), giving_up(), beats(), renewals(), beats())
    row = await node_row(database, node)
    assert row.renewals == 1 + answers[0].count(True) + answers[3].count(True)
    if row.tenure == 2:  # it was given up: nothing was granted before, so nothing was after
        assert answers[1] == [False]
        assert row.renewals == 1


# An operator's word


async def confirm(database: Database, ref: str, *, dead: bool = False, silent_s: float = 0.0) -> NodeState:
    async with database.write() as tx:
        body = FailoverConfirm(node=ref, dead=dead)
        return (await failover.confirm(tx, by("failover:confirm"), body, watching(silent_s))).state


async def test_an_operator_gives_up_a_node_once_its_lease_is_over(database: Database) -> None:
    _platform, node = await lost(database)
    with pytest.raises(ConflictError, match="for 16 s more") as refused:
        await confirm(database, node, silent_s=20)
    assert refused.value.code == "lease_not_over"
    assert await confirm(database, node, silent_s=wait_s(35)) is NodeState.FAILED
    assert await confirm(database, node) is NodeState.FAILED
    (told,) = [event for event in await events_of(database, node) if event.type == "node.failed"]
    assert (told.actor_name, told.request_id) == ("root", "req")


async def test_a_node_that_is_certainly_off_is_given_up_at_once(database: Database) -> None:
    platform, node = await lost(database)
    assert await confirm(database, node, dead=True) is NodeState.FAILED
    assert await take(platform, node)


async def test_a_node_that_is_heard_is_not_given_up_whatever_anybody_says(database: Database) -> None:
    _platform, node = await lost(database)
    await change(database, node, state=NodeState.READY)
    with pytest.raises(ConflictError) as refused:
        await confirm(database, node, dead=True)
    assert refused.value.code == "node_is_heard"
    with pytest.raises(NotFoundError):
        await confirm(database, "nobody")


async def test_a_longer_lease_that_was_granted_before_is_waited_for(database: Database) -> None:
    _platform, node = await lost(database)
    await change(database, node, lease_s=60.0)
    with pytest.raises(ConflictError):
        await confirm(database, node, silent_s=wait_s(35))
    assert await confirm(database, node, silent_s=wait_s(60)) is NodeState.FAILED


async def test_how_it_stands_is_shown(database: Database) -> None:
    platform, node = await lost(database, node_count=3)
    async with database.read() as rd:
        shown = await failover.status(rd, by("failover:view"), watching(10))
    assert (shown.held, shown.waiting, len(shown.nodes)) == (False, 0, 1)
    (one,) = shown.nodes
    assert (one.id, one.vms, one.silent_s, one.left_s, one.lost_at_once, one.of) == (node, 1, 10.0, 26.5, 1, 3)
    for agent in platform.agents:
        await change(database, agent.node, state=NodeState.OFFLINE)
    async with database.read() as rd:
        shown = await failover.status(rd, by("failover:view"), watching(40))
    assert shown.held
    assert (shown.nodes[0].held, shown.nodes[0].lost_at_once, shown.nodes[0].of) == (True, 3, 3)
    await confirm(database, node, dead=True)
    async with database.read() as rd:
        shown = await failover.status(rd, by("failover:view"), watching(40))
    assert (shown.held, shown.waiting, [vm.name for vm in shown.queue]) == (False, 1, ["web"])


async def test_what_is_held_is_told_once_and_its_end_too(database: Database) -> None:
    async def tell(*names: str) -> None:
        async with database.write() as tx:
            await failover.tell_hold(tx, names, 2, 3)

    for names in ((), ("a", "b"), ("a", "b"), ("a",), (), (), ("a",)):
        await tell(*names)
    assert await event_types(database, "platform") == ["failover.held", "failover.released", "failover.held"]

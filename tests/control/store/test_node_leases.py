"""Leases in the rows of nodes."""

from dataclasses import replace

import pytest

from nacre.control.store import node_leases, nodes
from nacre.control.store.db import Database
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState
from support.cloud import make_node

pytestmark = pytest.mark.anyio


async def nodes_of(database: Database, count: int) -> list[NodeId]:
    async with database.write() as tx:
        return [await make_node(tx, f"node-{number}") for number in range(count)]


async def row(database: Database, node: NodeId) -> nodes.NodeRow:
    async with database.read() as rd:
        found = await nodes.get(rd, node)
    assert found is not None
    return found


async def change(database: Database, node: NodeId, **values: object) -> None:
    async with database.write() as tx:
        before = await nodes.get(tx, node, lock=True)
        assert before is not None
        await nodes.save(tx, before, replace(before, **values))


async def renew(database: Database, *asked: tuple[NodeId, int], lease_s: float = 35) -> set[tuple[NodeId, int]]:
    async with database.write() as tx:
        return set(await node_leases.renew(tx, asked, lease_s))


async def test_only_the_tenure_that_a_node_has_is_granted(database: Database) -> None:
    a, b, c = await nodes_of(database, 3)
    await change(database, b, tenure=5)
    assert await renew(database, (a, 1), (a, 2), (b, 1), (b, 5), (NodeId("gone"), 1)) == {(a, 1), (b, 5)}
    assert [(await row(database, node)).renewals for node in (a, b, c)] == [1, 1, 0]
    await renew(database, (a, 1))
    assert (await row(database, a)).renewals == 2


async def test_a_node_that_was_given_up_has_no_lease_before_it_is_heard(database: Database) -> None:
    (node,) = await nodes_of(database, 1)
    await change(database, node, state=NodeState.FAILED)
    assert await renew(database, (node, 1)) == set()
    await change(database, node, state=NodeState.READY)
    assert await renew(database, (node, 1)) == {(node, 1)}


async def test_of_leases_of_several_lengths_the_longest_is_waited_for(database: Database) -> None:
    (node,) = await nodes_of(database, 1)
    for length, on_record in ((35, 35), (60, 60), (20, 60)):
        await renew(database, (node, 1), lease_s=length)
        assert (await row(database, node)).lease_s == on_record


async def test_what_is_watched_are_nodes_that_had_a_lease_and_those_in_the_states_asked_for(database: Database) -> None:
    renewing, offline, _ = await nodes_of(database, 3)
    await renew(database, (renewing, 1))
    await change(database, offline, state=NodeState.OFFLINE)
    async with database.read() as rd:
        watched = {one.id: one for one in await node_leases.watched(rd, {NodeState.OFFLINE})}
        assert await node_leases.count(rd, {NodeState.READY, NodeState.OFFLINE}) == 3
    assert set(watched) == {renewing, offline}
    assert (watched[renewing].renewals, watched[renewing].tenure, watched[renewing].lease_s) == (1, 1, 35.0)

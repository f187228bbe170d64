"""Reports of nodes, one transaction each."""

import pytest

from nacre.control.gateway import observed
from nacre.control.store.db import Database
from nacre.model.ids import NodeId, VmId
from nacre.model.vms import Phase, VmObserved
from nacre.protocol.messages import Observed
from support.cloud import at_generation, cloud

pytestmark = pytest.mark.anyio


async def test_a_partial_report_changes_what_it_mentions_and_nothing_else(database: Database) -> None:
    platform = await cloud(database)
    one, two = await platform.running("one"), await platform.running("two")
    await platform.agent.report(at_generation(platform.agent.has[one.id], 1, phase=Phase.STOPPING))
    assert (await platform.vm(one.id)).phase is Phase.STOPPING
    assert (await platform.vm(two.id)).phase is Phase.RUNNING


async def test_the_same_report_twice_is_stored_once(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    stopping = at_generation(platform.agent.has[vm.id], 1, phase=Phase.STOPPING)
    assert await platform.agent.report(stopping)
    assert not await platform.agent.report(stopping, sequence=platform.agent.sequence)


async def test_the_first_report_of_a_connection_may_have_any_number(database: Database) -> None:
    platform = await cloud(database)
    message = Observed(sequence=0, digest="", complete=True)
    assert await observed.apply(database, platform.agent.node, message, instance="instance-1")


async def test_a_report_of_machines_that_are_not_known_changes_nothing(database: Database) -> None:
    platform = await cloud(database)
    ghost = VmObserved(id=VmId("vm-ghost"), generation=7, phase=Phase.RUNNING, since=database.clock.now())
    assert await platform.agent.report(ghost)
    assert await platform.agent.intents() == {}


async def test_a_report_of_a_node_that_was_removed_is_refused(database: Database) -> None:
    message = Observed(sequence=1, digest="", complete=True)
    assert not await observed.apply(database, NodeId("node-gone"), message)

"""The desired state of a node: all of it, stable, and only its own."""

from dataclasses import replace

import pytest

from nacre.control.gateway import desired
from nacre.control.store import vms
from nacre.control.store.db import Database
from nacre.model.vms import Desired
from nacre.protocol.codec import digest
from nacre.protocol.messages import NodeIntent
from nacre.schema.vms import VmUpdate
from support.cloud import Agent, cloud, make_image

pytestmark = pytest.mark.anyio


async def loaded(agent: Agent) -> NodeIntent:
    async with agent.db.read() as rd:
        return await desired.load(rd, agent.node)


async def test_a_node_is_told_all_that_it_must_know_and_nothing_of_others(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    for number in range(4):
        await platform.running(f"vm-{number}", cpus=number + 1)
    intents = [await loaded(agent) for agent in platform.agents]
    assert sum(len(intent.vms) for intent in intents) == 4
    for intent in intents:
        assert intent.vms
        assert intent.images == (platform.image,)
        assert not intent.teardown_allowed
        for vm in intent.vms:
            assert vm.image.artifacts[0].sha256 == "0" * 64
            assert vm.image.kernel_args == "console=ttyS0"


async def test_the_digest_changes_with_intent_and_only_with_it(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    before = digest(await loaded(platform.agent))
    await platform.agent.sync()
    assert digest(await loaded(platform.agent)) == before
    await platform.verb("update", "web", VmUpdate(cpus=2))
    assert digest(await loaded(platform.agent)) != before


async def test_a_stopped_machine_stays_in_the_desired_state(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    await platform.verb("stop")
    await platform.converge()
    (vm,) = (await loaded(platform.agent)).vms
    assert vm.desired is Desired.STOPPED


async def test_deletions_that_people_asked_for_may_be_many(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "other")
    for number in range(5):
        await platform.running(f"vm-{number}", image="tiny" if number else "other")
    for number in range(5):
        await platform.verb("delete", f"vm-{number}")
    intent = await loaded(platform.agent)
    assert {vm.desired for vm in intent.vms} == {Desired.ABSENT}
    assert intent.images == ()
    assert intent.teardown_allowed


async def test_deletions_that_nobody_asked_for_need_an_operators_word(database: Database) -> None:
    platform = await cloud(database)
    for number in range(2):
        await platform.running(f"vm-{number}")
        await platform.verb("delete", f"vm-{number}")
    async with database.write() as tx:
        rows = await vms.on_node(tx, platform.agent.node)
        await vms.save(tx, replace(rows[0], delete_requested_by=None))
    assert not (await loaded(platform.agent)).teardown_allowed


async def test_a_machine_whose_image_is_gone_is_still_told_of(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    await platform.verb("delete")
    async with database.read() as rd:
        rows = await vms.on_node(rd, platform.agent.node)
    (vm,) = desired.build(rows, {}, allowed=False).vms
    assert (vm.desired, vm.image.artifacts) == (Desired.ABSENT, ())


def test_a_node_without_machines_has_nothing_to_do() -> None:
    assert desired.build([], {}, allowed=False) == NodeIntent()

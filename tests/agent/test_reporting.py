"""What the link asks of the agent: desired states are safe before they are acted on, what is held is told."""

from collections.abc import AsyncIterator

import pytest

from nacre.agent.observer import Observer
from nacre.agent.reporting import Reporting
from nacre.agent.settings import load
from nacre.errors import NotFoundError
from nacre.lib.clock import SystemClock
from nacre.model.ids import VmId
from nacre.model.nodes import ConditionKind
from nacre.model.vms import Desired, Phase
from nacre.protocol.messages import DesiredState, StreamKind
from support.intents import newer, node_intent, vm_intent
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


def reporting(node: Node) -> Reporting:
    observer = Observer()
    for fact in node.told:
        observer.changed(fact)
    return Reporting(
        settings=load(None, {}, {"data_dir": str(node.root), "labels": "rack=1"}),
        records=node.records,
        executor=node.executor,
        observer=observer,
        images=node.host.images,
        consoles=node.consoles,
        hypervisors=dict(node.host.hypervisors),
        clock=SystemClock(),
    )


async def test_a_desired_state_is_on_disk_and_acted_on_and_found_again_after_a_restart(node):
    intent = vm_intent()
    link = reporting(node)
    assert link.digest() == ""
    await link.on_desired(DesiredState(digest="one", intent=node_intent(intent)))
    assert link.digest() == "one"
    await node.shows(intent.id, Phase.RUNNING)
    await link.on_desired(DesiredState(digest="one", intent=None))
    await node.restart()
    again = reporting(node)
    again.restore()
    assert again.digest() == "one"
    assert [vm.id for vm in again.report().vms] == [intent.id]
    assert again.report().images == (intent.image.id,)


async def test_what_is_held_asks_for_a_complete_report(node):
    intent = vm_intent()
    link = reporting(node)
    await link.on_desired(DesiredState(digest="one", intent=node_intent(intent)))
    await node.shows(intent.id, Phase.RUNNING)
    assert not link.report_wanted.is_set()
    await link.on_desired(DesiredState(digest="two", intent=node_intent()))
    assert link.report_wanted.is_set()
    assert [held.id for held in link.report().held] == [intent.id]


async def test_a_refused_teardown_is_a_condition_until_it_is_allowed(node):
    intents = [vm_intent(desired=Desired.STOPPED) for _ in range(5)]
    link = reporting(node)
    await link.on_desired(DesiredState(digest="one", intent=node_intent(*intents)))
    for intent in intents:
        await node.shows(intent.id, Phase.STOPPED)
    gone = [newer(intent, Desired.ABSENT) for intent in intents]
    await link.on_desired(DesiredState(digest="two", intent=node_intent(*gone, teardown_allowed=False)))
    facts = await link.facts()
    await link.usage()
    assert facts.labels == {"rack": "1"}
    assert [info.name for info in facts.hypervisors] == ["fake"]
    assert ConditionKind.TEARDOWN_REFUSED in {condition.kind for condition in link.conditions()}
    await link.on_desired(DesiredState(digest="three", intent=node_intent(*gone)))
    assert ConditionKind.TEARDOWN_REFUSED not in {condition.kind for condition in link.conditions()}


async def test_consoles_and_logs_are_opened_and_no_path_leads_out_of_the_machines(node):
    intent = vm_intent()
    link = reporting(node)
    await link.on_desired(DesiredState(digest="one", intent=node_intent(intent)))
    await node.shows(intent.id, Phase.RUNNING)
    log = node.root / "vms" / intent.id / "console.log"
    await until(lambda: log.exists() and b"ready" in log.read_bytes())
    async with link.open_stream(StreamKind.CONSOLE_LOG, intent.id, 65536) as stored:
        assert b"ready" in b"".join([data async for data in stored])
    async with link.open_stream(StreamKind.CONSOLE, intent.id, 65536) as viewer:
        async for data in viewer:
            assert data
            break
    (node.root / "console.log").write_text("not a machine's")
    with pytest.raises(NotFoundError):
        async with link.open_stream(StreamKind.CONSOLE_LOG, VmId(".."), 100):
            pass

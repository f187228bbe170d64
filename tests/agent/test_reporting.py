"""What the link asks of the agent: desired states are safe before they are acted on, what is held is told."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from nacre.agent.exports import Exports
from nacre.agent.lease import Lease
from nacre.agent.observer import Observer
from nacre.agent.reporting import Reporting, news
from nacre.agent.settings import load
from nacre.errors import NotFoundError
from nacre.lib.clock import SystemClock
from nacre.model.copies import RetiredVm
from nacre.model.ids import VmId
from nacre.model.nodes import ConditionKind
from nacre.model.vms import Desired, HaPolicy, Phase
from nacre.model.volumes import LOCAL_POOL, PoolObserved
from nacre.protocol.messages import DesiredState, NodeIntent, Renewed, StreamKind
from support.intents import newer, node_intent, vm_id, vm_intent
from support.node import Node
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


def reporting(node: Node, lease: Lease | None = None) -> Reporting:
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
        lease=lease,
        exports=Exports(node.host, ended=node.executor.layers_freed),
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


async def test_what_has_moved_away_asks_for_a_complete_report_that_says_what_there_is_of_it(node):
    intent, stranger = vm_intent(fence=2), vm_id()
    link = reporting(node)
    await link.on_desired(DesiredState(digest="one", intent=node_intent(intent)))
    await node.shows(intent.id, Phase.RUNNING)
    assert not link.report_wanted.is_set()
    retired = (RetiredVm(id=intent.id, fence=2), RetiredVm(id=stranger, fence=7))
    await link.on_desired(DesiredState(digest="two", intent=NodeIntent(retired=retired)))
    assert link.report_wanted.is_set()
    assert [(copy.id, copy.exists) for copy in link.report().copies] == [(stranger, False)]
    await until(lambda: node.copied)
    assert [(copy.id, copy.fence, copy.exists) for copy in link.report().copies] == [
        (intent.id, 2, True),
        (stranger, 7, False),
    ]
    assert link.report().held == ()


async def test_a_desired_state_that_is_on_disk_has_its_leases_written_before_it_is_acted_on(node):
    lease = Lease(node.root / "run", SystemClock(), came=node.executor.leased)
    link = reporting(node, lease)
    intent = vm_intent(ha=HaPolicy.RESTART, fence=1)
    await link.on_desired(DesiredState(digest="one", intent=NodeIntent(vms=(intent,), tenure=3)))
    question = lease.ask()
    assert question.tenure == 3
    await lease.answered(Renewed(sequence=question.sequence, granted=True), 3600.0)
    await node.shows(intent.id, Phase.RUNNING)
    again = Lease(node.root / "run", SystemClock())
    reporting(node, again).restore()
    assert (again.tenure, again.is_needed) == (3, True)


async def test_a_tenure_that_goes_back_is_a_condition(node):
    lease = Lease(node.root / "run", SystemClock())
    link = reporting(node, lease)
    await link.facts()
    await link.usage()
    for tenure, wrong in ((4, False), (3, True), (4, False)):
        await link.on_desired(DesiredState(digest=f"{tenure}", intent=NodeIntent(tenure=tenure)))
        kinds = {condition.kind for condition in link.conditions()}
        assert (ConditionKind.TENURE_WENT_BACK in kinds) is wrong


@pytest.mark.parametrize(
    ("changes", "worth"),
    [
        ({}, False),
        ({"used_bytes": 1009, "capacity_bytes": 10_009}, False),
        ({"used_bytes": 1200}, True),
        ({"capacity_bytes": 10_200}, True),
        ({"available": False}, True),
    ],
)
def test_pools_are_told_anew_when_something_of_weight_changes(changes, worth):
    before = PoolObserved(id=LOCAL_POOL, available=True, capacity_bytes=10_000, used_bytes=1000)
    assert news((before,), (msgspec.structs.replace(before, **changes),)) is worth

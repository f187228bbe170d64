"""The lease of a node: who needs it, from when it counts, and what the guards are told."""

from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from nacre.agent.host import leases
from nacre.agent.hypervisors.guarding import is_forever, read_lease, write_lease
from nacre.agent.lease import Lease
from nacre.lib.clock import ManualClock
from nacre.model.ids import VmId
from nacre.model.vms import HaPolicy, VmIntent
from nacre.protocol.messages import NodeIntent, Renewed
from support.intents import newer, vm_intent

pytestmark = pytest.mark.anyio

LEASE_S = 35.0


class Desk:
    """A lease whose files lie in a folder, and whose clock a test moves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.clock.advance(1000)
        self.came: list[VmId] = []
        self.lease = self.again()

    def again(self) -> Lease:
        """As a restarted agent has it."""
        self.lease = Lease(self.folder, self.clock, came=self.came.append)
        return self.lease

    def told(self, *vms: VmIntent, tenure: int = 1) -> None:
        self.lease.told(NodeIntent(vms=vms, tenure=tenure))

    async def renew(self, *, granted: bool = True, after: float = 0.0) -> bool:
        """Ask, and hear the answer some seconds later."""
        question = self.lease.ask()
        self.clock.advance(after)
        return await self.lease.answered(Renewed(sequence=question.sequence, granted=granted), LEASE_S)

    def left(self, vm: VmIntent) -> float:
        """How long the guard of a machine lets it run on."""
        return max(0.0, read_lease(self.file(vm)) - self.clock.boottime())

    def file(self, vm: VmIntent) -> Path:
        return leases.file_of(self.folder, vm.id, vm.fence)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def safe(fence: int = 1, **changes: object) -> VmIntent:
    """A machine that is restarted elsewhere if its node is lost."""
    return vm_intent(ha=HaPolicy.RESTART, fence=fence, **changes)


async def test_it_is_needed_exactly_while_the_desired_state_on_disk_names_a_machine_that_needs_it(desk):
    assert not desk.lease.is_needed
    desk.told(vm_intent())
    assert not desk.lease.is_needed
    desk.told(vm_intent(), safe())
    assert desk.lease.is_needed
    assert desk.lease.may_ask
    desk.told()
    assert not desk.lease.is_needed


async def test_a_granted_lease_counts_from_when_it_was_asked_for(desk):
    one, other, plain = safe(), safe(), vm_intent(fence=1)
    desk.told(one, other, plain)
    assert await desk.renew(after=4.0)
    assert desk.left(one) == desk.left(other) == pytest.approx(LEASE_S - 4.0)
    assert desk.lease.left_s == pytest.approx(LEASE_S - 4.0)
    assert not desk.file(plain).exists()
    assert desk.came == [one.id, other.id]


async def test_an_answer_that_comes_too_late_to_be_of_use_gives_nothing(desk):
    one = safe()
    desk.told(one)
    assert await desk.renew(after=LEASE_S + 20)
    assert desk.left(one) == 0
    assert desk.lease.left_s == 0


async def test_every_renewal_prolongs_it_and_only_the_first_is_news(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    desk.clock.advance(2)
    await desk.renew()
    assert desk.left(one) == pytest.approx(LEASE_S)
    assert desk.came == [one.id]
    desk.clock.advance(LEASE_S + 1)
    await desk.renew()
    assert desk.came == [one.id, one.id]


async def test_the_wall_clock_plays_no_part(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    desk.clock.jump(7200)
    assert desk.left(one) == pytest.approx(LEASE_S)
    desk.clock.jump(-14400)
    await desk.renew()
    assert desk.left(one) == pytest.approx(LEASE_S)


async def test_an_answer_to_an_older_question_says_nothing(desk):
    one = safe()
    desk.told(one)
    first = desk.lease.ask()
    desk.clock.advance(30)
    desk.lease.ask()
    assert await desk.lease.answered(Renewed(sequence=first.sequence, granted=True), LEASE_S)
    assert desk.left(one) == 0


async def test_a_refused_lease_is_not_asked_for_again_before_there_is_another_tenure_on_disk(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    desk.clock.advance(5)
    assert not await desk.renew(granted=False)
    assert not desk.lease.may_ask
    assert desk.left(one) == pytest.approx(LEASE_S - 5)  # what was granted stays granted until then
    desk.told(one, safe())
    assert not desk.lease.may_ask
    desk.told(one, tenure=2)
    assert desk.lease.may_ask
    assert desk.lease.ask().tenure == 2


async def test_what_was_granted_for_a_tenure_that_is_no_more_is_not_used(desk):
    one = safe()
    desk.told(one)
    question = desk.lease.ask()
    desk.told(one, tenure=2)
    assert await desk.lease.answered(Renewed(sequence=question.sequence, granted=True), LEASE_S)
    assert desk.left(one) == 0


async def test_a_machine_that_comes_while_the_node_has_a_lease_has_it_at_once(desk):
    one, late = safe(), safe()
    desk.told(one)
    await desk.renew()
    desk.clock.advance(3)
    desk.told(one, late)
    assert desk.left(late) == pytest.approx(LEASE_S - 3)
    assert desk.came == [one.id, late.id]


async def test_a_machine_that_comes_with_another_tenure_waits_for_a_lease_of_that(desk):
    one, late = safe(), safe()
    desk.told(one)
    await desk.renew()
    desk.told(one, late, tenure=2)
    assert desk.left(late) == 0
    await desk.renew()
    assert desk.left(late) == pytest.approx(LEASE_S)


async def test_only_the_placement_that_is_told_of_is_prolonged(desk):
    old = safe(fence=3)
    desk.told(old)
    await desk.renew()
    moved_and_back = newer(old, fence=5)
    desk.told(moved_and_back, tenure=2)
    desk.clock.advance(10)
    await desk.renew()
    assert desk.left(old) == pytest.approx(LEASE_S - 10)
    assert desk.left(moved_and_back) == pytest.approx(LEASE_S)


async def test_a_machine_that_is_told_of_no_more_is_not_prolonged_and_its_lease_goes_when_it_has_ended(desk):
    one, other = safe(), safe()
    desk.told(one, other)
    await desk.renew()
    desk.told(other)
    await desk.renew(after=1)
    assert desk.left(one) == pytest.approx(LEASE_S - 1)
    desk.clock.advance(LEASE_S)
    desk.told(other, safe())
    assert not desk.file(one).exists()


async def test_a_guarded_machine_that_needs_no_lease_any_more_runs_on_for_ever(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    plain = newer(one, spec=msgspec.structs.replace(one.spec, ha=HaPolicy.NONE))
    desk.told(plain)
    assert is_forever(desk.file(one))
    desk.again().told(NodeIntent(vms=(plain,), tenure=1))
    assert is_forever(desk.file(one))


async def test_one_that_needs_it_again_is_held_at_once_until_there_is_a_lease(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    plain = newer(one, spec=msgspec.structs.replace(one.spec, ha=HaPolicy.NONE))
    desk.told(plain)
    desk.again().told(NodeIntent(vms=(newer(plain, spec=one.spec),), tenure=1))
    assert desk.left(one) == 0
    await desk.renew()
    assert desk.left(one) == pytest.approx(LEASE_S)


async def test_a_restarted_agent_leaves_leases_as_they_are(desk):
    one = safe()
    desk.told(one)
    await desk.renew()
    desk.clock.advance(5)
    desk.again().told(NodeIntent(vms=(one,), tenure=1))
    assert desk.left(one) == pytest.approx(LEASE_S - 5)
    assert desk.lease.left_s == 0  # it does not know of any


async def test_a_lease_of_before_the_host_was_booted_is_none(desk):
    one = safe()
    desk.file(one).write_text("999999999999999999 another-boot\n")
    assert desk.left(one) == 0


async def test_a_tenure_that_goes_back_is_taken_and_said_out_loud(desk):
    desk.told(safe(), tenure=6)
    with capture_logs() as logs:
        desk.told(safe(), tenure=5)
    assert [(log["event"], log["log_level"]) for log in logs] == [("tenure.went_back", "error")]
    assert desk.lease.went_back == (5, 6)
    assert desk.lease.ask().tenure == 5
    desk.told(safe(), tenure=6)
    assert desk.lease.went_back is None


async def test_a_lease_that_cannot_be_written_ends_and_that_is_said(desk):
    one = safe()
    desk.told(one)
    desk.file(one).with_name(desk.file(one).name + ".new").mkdir()
    with capture_logs() as logs:
        await desk.renew()
    assert "lease.not_written" in [log["event"] for log in logs]
    assert desk.left(one) == 0


async def test_leases_of_machines_of_which_nothing_runs_are_cleared_away(tmp_path):
    runs, off = safe(), safe()
    for vm in (runs, off):
        write_lease(leases.file_of(tmp_path, vm.id, vm.fence), 5.0)
    (tmp_path / runs.id).mkdir()
    leases.clear(tmp_path)
    assert leases.files(tmp_path) == {leases.file_of(tmp_path, runs.id, 1)}

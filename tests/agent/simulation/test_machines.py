"""Simulated machines obey like real ones: the planner decides, and what it asks for takes time."""

import msgspec
import pytest

from nacre.agent.failures import FENCED
from nacre.agent.simulation.machines import Machines, Physics
from nacre.lib.clock import SystemClock
from nacre.model.checkpoints import CheckpointIntent, Restoration
from nacre.model.consistency import Consistency
from nacre.model.copies import RetiredVm
from nacre.model.ids import CheckpointId, VmId
from nacre.model.vms import Desired, ExitReason, HaPolicy, Phase, VmIntent, VmObserved
from nacre.model.volumes import Wish
from nacre.protocol.messages import NodeIntent
from support.intents import newer, vm_intent
from support.waiting import until

pytestmark = pytest.mark.anyio

BOOT_S = 0.02


class Node:
    """The machines of one node, and what they told."""

    def __init__(self, *, failure_rate: float = 0.0, chance: float = 0.5) -> None:
        self.told: list[VmObserved] = []
        self.leased = True
        self.now: dict[VmId, VmObserved] = {}
        self.machines = Machines(
            Physics(boot_s=BOOT_S, failure_rate=failure_rate, random=lambda: chance),
            SystemClock(),
            told=self._tell,
            forgotten=lambda vm: self.now.pop(vm),
            leased=lambda: self.leased,
        )

    def _tell(self, observed: VmObserved) -> None:
        self.told.append(observed)
        self.now[observed.id] = observed

    def phases(self, vm: VmId) -> list[Phase]:
        """The phases of a machine in their order, without repetitions."""
        seen = [observed.phase for observed in self.told if observed.id == vm]
        return [phase for index, phase in enumerate(seen) if index == 0 or seen[index - 1] is not phase]

    async def until_phase(self, vm: VmId, phase: Phase) -> VmObserved:
        """How a machine is once it is in a phase."""
        await until(lambda: vm in self.now and self.now[vm].phase is phase, every=0.002)
        return self.now[vm]


def told(*vms: VmIntent) -> NodeIntent:
    return NodeIntent(vms=vms, teardown_allowed=True)


async def test_a_machine_starts_after_its_time_and_stops() -> None:
    node = Node()
    vm = vm_intent()
    node.machines.want(told(vm))
    running = await node.until_phase(vm.id, Phase.RUNNING)
    assert node.phases(vm.id) == [Phase.STARTING, Phase.RUNNING]
    assert (running.generation, running.run is not None) == (1, True)
    assert len(node.machines.running) == 1
    node.machines.want(told(newer(vm, Desired.STOPPED)))
    stopped = await node.until_phase(vm.id, Phase.STOPPED)
    assert stopped.run is not None
    assert stopped.run.exit_reason is ExitReason.STOPPED
    assert not node.machines.running


async def test_a_machine_that_is_deleted_leaves_a_trace_until_nobody_names_it() -> None:
    node = Node()
    vm = vm_intent()
    node.machines.want(told(vm))
    await node.until_phase(vm.id, Phase.RUNNING)
    node.machines.want(told(newer(vm, Desired.ABSENT)))
    await node.until_phase(vm.id, Phase.ABSENT)
    node.machines.want(told())
    assert vm.id not in node.now


async def test_a_newer_intent_interrupts_a_start() -> None:
    node = Node(chance=0.5)
    vm = vm_intent()
    node.machines.want(told(vm))
    node.machines.want(told(newer(vm, Desired.STOPPED)))
    assert node.phases(vm.id)[-1] is Phase.STOPPED
    assert node.now[vm.id].run is None


async def test_a_start_that_fails_is_reported_and_tried_again() -> None:
    node = Node(failure_rate=1.0, chance=0.5)
    vm = vm_intent()
    node.machines.want(told(vm))
    await until(lambda: any(observed.failure is not None for observed in node.told))
    failure = node.now[vm.id].failure
    assert failure is not None
    assert (failure.code, failure.attempts) == ("simulated_failure", 1)
    await until(lambda: node.now[vm.id].failure is not None and node.now[vm.id].failure.attempts == 2)


async def test_a_reboot_is_another_life() -> None:
    node = Node()
    vm = vm_intent()
    node.machines.want(told(vm))
    first = (await node.until_phase(vm.id, Phase.RUNNING)).run
    node.machines.want(told(newer(vm, reboot_nonce=1)))
    await until(lambda: node.now[vm.id].reboot_nonce == 1, every=0.002)
    second = node.now[vm.id].run
    assert first is not None
    assert second is not None
    assert first.id != second.id


async def test_what_is_not_told_of_is_held_and_left_alone() -> None:
    node = Node()
    vm = vm_intent()
    node.machines.want(told(vm))
    await node.until_phase(vm.id, Phase.RUNNING)
    node.machines.want(told())
    assert [(held.id, held.running) for held in node.machines.held()] == [(vm.id, True)]


async def test_a_power_cut_leaves_nothing() -> None:
    node = Node()
    vm = vm_intent()
    node.machines.want(told(vm))
    await node.until_phase(vm.id, Phase.RUNNING)
    node.machines.power_off()
    assert not node.machines.running
    assert not node.machines.held()


async def test_a_machine_that_needs_a_lease_starts_with_it_and_stands_still_without() -> None:
    node = Node()
    node.leased = False
    vm = vm_intent(ha=HaPolicy.RESTART, fence=1)
    node.machines.want(told(vm))
    assert node.now[vm.id].phase is Phase.PREPARING
    node.leased = True
    running = await node.until_phase(vm.id, Phase.RUNNING)
    assert running.run is not None
    assert running.run.guarded
    node.leased = False
    node.machines.look_at_lease()
    failure = node.now[vm.id].failure
    assert failure is not None
    assert failure.code == FENCED
    node.leased = True
    node.machines.look_at_lease()
    assert node.now[vm.id].failure is None
    assert node.now[vm.id].run == running.run


async def test_a_machine_that_has_moved_away_is_let_go_of() -> None:
    node = Node()
    vm = vm_intent(fence=3)
    node.machines.want(told(vm))
    await node.until_phase(vm.id, Phase.RUNNING)
    node.machines.want(NodeIntent(retired=(RetiredVm(id=vm.id, fence=3),)))
    assert vm.id not in node.now
    assert [(copy.fence, copy.exists) for copy in node.machines.copies()] == [(3, False)]


async def test_a_machine_is_kept_put_back_and_forgotten() -> None:
    node = Node()
    vm = vm_intent(disk_bytes=1 << 30)
    kept = CheckpointIntent(id=CheckpointId("ckpt-1"), desired=Wish.PRESENT, memory=True)
    node.machines.want(told(vm))
    first = await node.until_phase(vm.id, Phase.RUNNING)
    node.machines.want(told(vm := newer(vm, checkpoints=(kept,))))
    (seen,) = node.now[vm.id].checkpoints
    assert (seen.id, seen.consistency, seen.disk_bytes) == (kept.id, Consistency.MEMORY, 1 << 30)
    node.machines.want(told(vm := newer(vm, restore=Restoration(nonce=1, checkpoint=kept.id, memory=True))))
    await until(lambda: node.now[vm.id].restore_nonce == 1 and node.now[vm.id].phase is Phase.RUNNING, every=0.002)
    assert node.now[vm.id].run != first.run
    node.machines.want(told(newer(vm, checkpoints=(msgspec.structs.replace(kept, desired=Wish.ABSENT),))))
    assert node.now[vm.id].checkpoints == ()

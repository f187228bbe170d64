"""Which machines can go where while they run: every reason against it, and when a move is tried so at all."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from nacre.control.services import live_moves
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.model.checkpoints import CheckpointSource
from nacre.model.hardware import BootOptions, DeviceOptions, Firmware
from nacre.model.ids import CheckpointId, VmId, VolumeId
from nacre.model.moves import MoveMethod, MoveReason
from nacre.model.nodes import LIVE_MOVES, Capacity, HypervisorInfo, Inventory, NodeFacts
from nacre.model.vm_changes import in_force
from nacre.model.vms import Desired, MachineType, Phase, RunInfo
from nacre.model.volumes import Tie
from support.handover import RUN, SPEC, A, World, node_row

INFO = HypervisorInfo(
    name="qemu", available=True, version="9.2", accelerator="kvm", machines=("q35",), abilities=(LIVE_MOVES,)
)
MADE_OF = Inventory(cpu_model="A CPU", cpu_flags="abc")


VOLUME = VolumeId("vol-1")
WITH_VOLUME: dict[str, Any] = {"run": msgspec.structs.replace(RUN, volumes=(VOLUME,))}


def a_node(node: str, *, inventory: Inventory | None = MADE_OF, **changes: Any) -> NodeRow:
    facts = NodeFacts(
        hostname=node,
        os="linux",
        kernel="6",
        architecture="x86_64",
        agent_version="0",
        boot_id="b",
        capacity=Capacity(cpus=1, memory_bytes=1, disk_bytes=1),
        hypervisors=(msgspec.structs.replace(INFO, **changes),),
        inventory=inventory,
    )
    return replace(node_row(node), facts=facts)


def running(**changes: Any) -> RunInfo:
    return msgspec.structs.replace(RUN, config=msgspec.structs.replace(in_force(SPEC), **changes))


VM = replace(World(None).vm, run=msgspec.structs.replace(RUN, accelerator="kvm"))  # type: ignore[arg-type]
HERE = a_node("here")


def test_a_machine_that_runs_goes_to_a_node_that_is_the_same() -> None:
    assert live_moves.hindrance(VM, HERE) == ""
    assert live_moves.obstacle(VM, HERE, a_node("there")) == ""


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"desired": Desired.STOPPED}, "does not run"),
        ({"desired": Desired.PAUSED}, "does not run"),
        ({"phase": Phase.STARTING}, "does not run"),
        ({"run": None}, "does not run"),
        ({"spec": msgspec.structs.replace(SPEC, cpus=3)}, "cpus"),
        ({"run": running(devices=DeviceOptions(tpm=True))}, "TPM"),
        ({"run": running(boot=BootOptions(firmware=Firmware.UEFI))}, "UEFI"),
        ({"spec": msgspec.structs.replace(SPEC, devices=DeviceOptions(tpm=True))}, "TPM"),
        ({"tie": Tie(volumes=(VOLUME,))}, "changes wait for a restart: volumes"),
        ({"run": msgspec.structs.replace(RUN, volumes=(VOLUME,))}, "changes wait for a restart: volumes"),
        ({**WITH_VOLUME, "tie": Tie(volumes=(VOLUME,), nodes=(A,), because="data")}, "no other node reaches"),
        ({"checkpoints": 1}, "its checkpoints stay"),
        ({"source": CheckpointSource(vm=VmId("vm-2"), checkpoint=CheckpointId("cp-1"))}, "shares layers"),
    ],
    ids=str,
)
def test_what_keeps_a_machine_from_leaving_is_named(changes: dict[str, Any], why: str) -> None:
    assert why in live_moves.hindrance(replace(VM, **changes), HERE)
    assert "cannot move" in live_moves.hindrance(VM, a_node("here", abilities=()))
    assert "cannot move" in live_moves.hindrance(VM, None)


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (a_node("there", abilities=()), "cannot take machines in"),
        (a_node("there", available=False), "cannot take machines in"),
        (a_node("there", name="other"), "cannot take machines in"),
        (a_node("there", version="9.1"), "9.1, not 9.2"),
        (a_node("there", machines=("pc",)), "no machine type q35"),
        (a_node("there", accelerator="tcg"), "no kvm"),
        (a_node("there", inventory=None), "CPUs of there"),
        (a_node("there", inventory=Inventory(cpu_model="A CPU", cpu_flags="abd")), "CPUs of there"),
        (a_node("there", inventory=Inventory(cpu_model="A CPU")), "CPUs of there"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_what_keeps_a_node_from_taking_a_machine_in_is_named(there: NodeRow, why: str) -> None:
    assert why in live_moves.obstacle(VM, HERE, there)
    assert list(live_moves.obstacles(VM, HERE, [HERE, there, a_node("good")])) == [there.id]


def test_without_acceleration_the_cpus_do_not_matter() -> None:
    soft = replace(VM, run=RUN)
    other = a_node("there", accelerator="tcg", inventory=Inventory(cpu_model="B", cpu_flags="x"))
    assert live_moves.obstacle(soft, HERE, other) == ""
    pc = replace(soft, spec=msgspec.structs.replace(SPEC, machine=MachineType.PC))
    assert live_moves.obstacle(pc, HERE, other) != ""


def test_volumes_go_along_to_nodes_that_reach_all_of_them() -> None:
    run = msgspec.structs.replace(RUN, accelerator="kvm", volumes=(VOLUME,))
    there, beyond = a_node("there"), a_node("beyond")
    everywhere = replace(VM, run=run, tie=Tie(volumes=(VOLUME,)))
    assert live_moves.hindrance(everywhere, HERE) == ""
    assert live_moves.obstacles(everywhere, HERE, [HERE, there, beyond]) == {}
    some = replace(everywhere, tie=Tie(volumes=(VOLUME,), nodes=(A, there.id), because="data"))
    assert live_moves.hindrance(some, HERE) == ""
    assert live_moves.obstacles(some, HERE, [HERE, there, beyond]) == {
        beyond.id: "beyond does not reach its volume data"
    }


def a_move(method: MoveMethod, reason: MoveReason = MoveReason.USER, attempts: int = 0) -> MoveRow:
    return replace(World(None).move, method=method, reason=reason, attempts=attempts)  # type: ignore[arg-type]


def test_a_move_is_tried_while_the_machine_runs_unless_that_is_not_wanted_or_there_is_no_time() -> None:
    most = live_moves.MAX_ATTEMPTS
    assert live_moves.wanted(a_move(MoveMethod.AUTO))
    assert live_moves.wanted(a_move(MoveMethod.AUTO, MoveReason.DRAIN, most - 1))
    assert not live_moves.wanted(a_move(MoveMethod.AUTO, attempts=most))
    assert live_moves.wanted(a_move(MoveMethod.LIVE, attempts=most))
    assert not live_moves.wanted(a_move(MoveMethod.RESTART))
    for reason in (MoveReason.EVACUATION, MoveReason.PREEMPTION):
        assert not live_moves.wanted(a_move(MoveMethod.AUTO, reason))


@pytest.mark.parametrize(
    ("move", "changes", "why"),
    [
        (a_move(MoveMethod.AUTO), {}, ""),
        (a_move(MoveMethod.AUTO), {"phase": Phase.STARTING}, "it does not run"),
        (a_move(MoveMethod.AUTO), {"desired": Desired.STOPPED}, ""),
        (a_move(MoveMethod.AUTO), {"tie": Tie(volumes=(VOLUME,))}, "volumes"),
        (a_move(MoveMethod.AUTO), {"checkpoints": 2}, "its checkpoints stay"),
        (a_move(MoveMethod.RESTART), {"tie": Tie(volumes=(VOLUME,))}, ""),
        (a_move(MoveMethod.AUTO, MoveReason.EVACUATION), {}, "no time"),
        (a_move(MoveMethod.AUTO, attempts=live_moves.MAX_ATTEMPTS), {}, "3 attempts"),
    ],
    ids=str,
)
def test_a_machine_that_is_stopped_to_be_moved_is_told_why(move: MoveRow, changes: dict[str, Any], why: str) -> None:
    found = live_moves.why_not(move, replace(VM, **changes), HERE, a_node("there"))
    assert why in found
    assert bool(found) is bool(why)


def test_a_target_that_cannot_take_it_in_is_a_reason_too() -> None:
    assert "9.1" in live_moves.why_not(a_move(MoveMethod.AUTO), VM, HERE, a_node("there", version="9.1"))


def test_a_machine_whose_node_has_yet_to_do_what_was_asked_is_not_judged() -> None:
    assert not live_moves.is_unsettled(VM)
    assert live_moves.is_unsettled(replace(VM, generation=VM.generation + 1))

"""Whether a machine can go to another node while it runs, and why not. Pure: rows in, an answer out.

Used by `moves` under locks, by the reconciler beforehand, and by `move_requests` before anything begins.
"""

from collections.abc import Iterable

from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.hardware import Firmware
from nacre.model.ids import NodeId, VolumeId
from nacre.model.moves import MoveMethod, MoveReason
from nacre.model.nodes import LIVE_MOVES, HypervisorInfo
from nacre.model.vm_changes import restart_required
from nacre.model.vms import Desired, Phase

MAX_ATTEMPTS = 3
"""After so many that came to nothing a move with the method `live` fails, and any other restarts its machine."""
SOFTWARE = "tcg"
_IN_A_HURRY = frozenset({MoveReason.EVACUATION, MoveReason.PREEMPTION})


def in_a_hurry(move: MoveRow) -> bool:
    """Whether a machine has to be off its node soon: copying one that runs may take as long as it likes."""
    return move.reason in _IN_A_HURRY


def wanted(move: MoveRow) -> bool:
    """Whether a move is to be tried while its machine runs."""
    match move.method:
        case MoveMethod.LIVE:
            return True
        case MoveMethod.AUTO:
            return not in_a_hurry(move) and move.attempts < MAX_ATTEMPTS
        case MoveMethod.RESTART:
            return False


def is_unsettled(vm: VmRow) -> bool:
    """Whether its node is still about to do what was last asked for, so that it is too early to say."""
    return vm.failure is None and vm.observed_generation < vm.generation


def why_not(move: MoveRow, vm: VmRow, source: NodeRow | None, target: NodeRow) -> str:
    """Return why a machine does not go to a node while it runs, or could not; empty if it does, or nobody asked."""
    if move.method is MoveMethod.RESTART or vm.desired is Desired.STOPPED:
        return ""
    if in_a_hurry(move):
        return "there is no time for more"
    if not wanted(move):
        return f"{move.attempts} attempts while it ran have come to nothing ({move.message})"
    if source is None:
        return "its node is gone"
    return hindrance(vm, source) or obstacle(vm, source, target)


def hindrance(vm: VmRow, source: NodeRow | None) -> str:
    """Return why a machine cannot leave its node while it runs, wherever it would go; empty if it can."""
    if vm.desired is not Desired.RUNNING or vm.phase is not Phase.RUNNING or vm.run is None:
        return "it does not run"
    here = _hypervisor(vm, source)
    if here is None or LIVE_MOVES not in here.abilities:
        return f"its hypervisor {vm.spec.hypervisor} cannot move machines that run"
    stays = _stays(vm)
    if stays:
        return stays
    changed = restart_required(vm.spec, vm.run, _attached(vm))
    if changed:
        return f"changes wait for a restart: {', '.join(changed)}"
    return ""


def obstacle(vm: VmRow, source: NodeRow, target: NodeRow) -> str:
    """Return why a node cannot take a machine in while it runs; empty if it can. `hindrance` has found nothing."""
    beyond = out_of_reach(vm, target)
    if beyond:
        return beyond
    here, there = _hypervisor(vm, source), _hypervisor(vm, target)
    if here is None or there is None or not there.available or LIVE_MOVES not in there.abilities:
        return f"{target.name} cannot take machines in that run"
    if here.version != there.version:
        return f"{target.name} has {vm.spec.hypervisor} {there.version}, not {here.version}"
    if vm.spec.machine.value not in there.machines:
        return f"{target.name} has no machine type {vm.spec.machine.value}"
    accelerator = vm.run.accelerator if vm.run is not None else ""
    if accelerator == SOFTWARE:
        return ""
    if there.accelerator != accelerator:
        return f"{target.name} has no {accelerator}"
    if not _cpu(source) or _cpu(source) != _cpu(target):
        return f"the CPUs of {target.name} are others"
    return ""


def out_of_reach(vm: VmRow, target: NodeRow) -> str:
    """Return why a node cannot open a machine's volumes; empty if it can."""
    if vm.tie is None or not vm.tie.nodes or target.id in vm.tie.nodes:
        return ""
    return f"{target.name} does not reach its volume {vm.tie.because}"


def is_kept(vm: VmRow) -> bool:
    """Whether a machine can be on no other node, running or not, because of its volumes."""
    return vm.tie is not None and bool(vm.tie.nodes) and set(vm.tie.nodes) <= {vm.node}


def changed_since(vm: VmRow) -> str:
    """Return what of a machine was changed so that the guest that is being copied is not what it should be any more."""
    changed = restart_required(vm.spec, vm.run, _attached(vm))
    return f"the machine was changed: {', '.join(changed)}" if changed else ""


def obstacles(vm: VmRow, source: NodeRow, among: Iterable[NodeRow]) -> dict[NodeId, str]:
    """Return the nodes that cannot take a machine in while it runs, and why."""
    found = {node.id: obstacle(vm, source, node) for node in among if node.id != source.id}
    return {node: why for node, why in found.items() if why}


def _stays(vm: VmRow) -> str:
    """Say what of a machine lies on its node and does not go with its memory; empty if nothing."""
    has = vm.run.config if vm.run is not None else None
    boot, devices = (has.boot, has.devices) if has is not None else (vm.spec.boot, vm.spec.devices)
    if devices.tpm:
        return "what is in its TPM stays on its node"
    if boot.firmware is Firmware.UEFI:
        return "the variables of its UEFI stay on its node"
    if vm.checkpoints:
        return "its checkpoints stay on its node"
    if vm.source is not None:
        return "its disk shares layers with a checkpoint on its node"
    if vm.tie is not None and is_kept(vm):
        return f"no other node reaches its volume {vm.tie.because}"
    return ""


def _attached(vm: VmRow) -> frozenset[VolumeId]:
    return frozenset(vm.tie.volumes) if vm.tie is not None else frozenset()


def _hypervisor(vm: VmRow, node: NodeRow | None) -> HypervisorInfo | None:
    if node is None or node.facts is None:
        return None
    return next((each for each in node.facts.hypervisors if each.name == vm.spec.hypervisor), None)


def _cpu(node: NodeRow) -> tuple[str, str] | None:
    made_of = node.facts.inventory if node.facts is not None else None
    if made_of is None or not made_of.cpu_flags:
        return None
    return made_of.cpu_model, made_of.cpu_flags

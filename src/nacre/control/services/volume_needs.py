"""What a volume takes: a hypervisor that opens it, connected as it is asked. Asked before it is a machine's."""

from collections.abc import Iterable

from nacre.control.store import nodes
from nacre.control.store.db import Read
from nacre.control.store.pools import PoolRow
from nacre.control.store.vms import VmRow
from nacre.control.store.volumes import VolumeRow
from nacre.errors import UnsupportedError
from nacre.model.capabilities import Capability, Level, Support, mask_of, mask_offered, named, understood
from nacre.model.hardware import DiskOptions
from nacre.model.nodes import HypervisorInfo
from nacre.model.vm_needs import volume_wants


async def check(rd: Read, vm: VmRow, volume: VolumeRow, pool: PoolRow, options: DiskOptions) -> None:
    """Raise UnsupportedError if the machine's hypervisor cannot have the volume, on its node or (None) on any.

    Nothing is known of nodes whose agent has never connected, or is too old to say what the hypervisor can do, and of
    those where it does not work at present.
    """
    asked = volume_wants(volume.format, pool.kind, options)
    needed = mask_of(asked)
    nearest: HypervisorInfo | None = None
    for info in await _infos(rd, vm):
        lacks = needed & ~mask_offered(info.offer)
        if not lacks:
            return
        if nearest is None or lacks.bit_count() < (needed & ~mask_offered(nearest.offer)).bit_count():
            nearest = info
    if nearest is not None:
        missing = named(needed & ~mask_offered(nearest.offer))[0]
        raise _cannot(vm, volume, nearest, missing, asked[missing])


async def _infos(rd: Read, vm: VmRow) -> list[HypervisorInfo]:
    """Return what is known of the hypervisor of a machine where that may run."""
    if vm.node is not None:
        node = await nodes.get(rd, vm.node)
        return _working(vm, node.facts.hypervisors if node is not None and node.facts is not None else ())
    return [info async for rows in nodes.told(rd) for row in rows for info in _working(vm, row.hypervisors)]


def _working(vm: VmRow, told: Iterable[HypervisorInfo]) -> list[HypervisorInfo]:
    return [info for info in told if info.available and info.offer is not None and info.name == vm.spec.hypervisor]


def _cannot(vm: VmRow, volume: VolumeRow, info: HypervisorInfo, missing: Capability, field: str) -> UnsupportedError:
    name, hypervisor = volume.name, vm.spec.hypervisor
    support = understood(info.offer or ()).get(missing, Support(level=Level.UNSUPPORTED))
    note = f": {support.note}" if support.note else ""
    hint = "leave that option at its default; `nacre hypervisor list` says what can be done"
    what = f"{hypervisor} cannot connect volume {name} in this way"
    if missing is Capability.DISK_RBD:
        what, hint = f"{hypervisor} does not reach volume {name}, which is in a Ceph cluster", "use one of another pool"
    elif missing is Capability.DISK_QCOW2:
        what = f"{hypervisor} does not open volume {name}, which is kept as qcow2"
        hint = f"attach a raw copy of it: `nacre volume clone {name} {name}-raw --full --format raw` makes one"
    elif missing is Capability.DISK_RAW:
        what, hint = f"{hypervisor} does not open volume {name}, which is raw", "update nacre-agent on the node"
    return UnsupportedError("capability_missing", f"{what} ({missing}){note}", hint=hint, field=field)

"""What a checkpoint takes: a machine that has something to keep, and a hypervisor that can. Asked before all else."""

from collections.abc import Mapping

from nacre.control.store import nodes
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError, UnsupportedError
from nacre.model.capabilities import Capability, Support, offers, understood
from nacre.model.vms import Desired


async def check(rd: Read, row: VmRow, *, memory: bool, volumes: int) -> None:
    """Raise unless there can be a checkpoint of a machine now. `volumes`: how many would be part of it."""
    if row.node is None or row.run is None:
        raise ConflictError(
            "vm_not_made",
            f"machine {row.name} has never run, so there is nothing to keep",
            hint=f"start it first: `nacre vm start {row.name}`",
        )
    runs = row.run.exited_at is None
    if memory and not (runs and row.desired in {Desired.RUNNING, Desired.PAUSED}):
        raise ConflictError(
            "vm_not_running",
            f"machine {row.name} is off and has no memory",
            hint="leave the memory out, or start it first",
            field="memory",
        )
    has_disks = row.reserved_disk_bytes > 0 or volumes > 0
    if not has_disks and not memory:
        raise ConflictError(
            "nothing_to_keep",
            f"machine {row.name} has no disks",
            hint="keep its memory (`memory: true`), or attach a volume",
        )
    offer = await _offer(rd, row)
    if runs and has_disks and not offers(offer, Capability.DISK_SNAPSHOT):
        raise _cannot(row, offer, Capability.DISK_SNAPSHOT, "keep disks while it runs", "stop it first", None)
    if memory:
        _require_memory(row, offer)


async def check_memory(rd: Read, row: VmRow) -> None:
    """Raise UnsupportedError unless the machine's hypervisor can go on from saved memory."""
    _require_memory(row, await _offer(rd, row))


def _require_memory(row: VmRow, offer: Mapping[Capability, Support]) -> None:
    if not offers(offer, Capability.CHECKPOINT):
        raise _cannot(
            row, offer, Capability.CHECKPOINT, "save memory and go on from it", "leave the memory out", "memory"
        )


async def _offer(rd: Read, row: VmRow) -> Mapping[Capability, Support]:
    """Return what the machine's hypervisor offers on its node. Raises UnsupportedError if its agent is too old."""
    node = None if row.node is None else await nodes.get(rd, row.node)
    told = node.facts.hypervisors if node is not None and node.facts is not None else ()
    info = next((one for one in told if one.name == row.spec.hypervisor), None)
    if info is None or info.offer is None:
        raise UnsupportedError(
            "agent_too_old",
            f"the agent on the node of {row.name} does not say what its hypervisor can do",
            hint="update nacre-agent on the node",
        )
    return understood(info.offer)


def _cannot(
    row: VmRow, offer: Mapping[Capability, Support], capability: Capability, what: str, hint: str, field: str | None
) -> UnsupportedError:
    support = offer.get(capability)
    note = f": {support.note}" if support is not None and support.note else ""
    return UnsupportedError(
        "capability_missing",
        f"{row.spec.hypervisor} cannot {what} on the node of {row.name} ({capability}){note}",
        hint=f"{hint}; `nacre hypervisor list` says what can be done",
        field=field,
    )

"""How a machine stands, in the words of the planner and of reports. Used by the executor. Decides nothing."""

from nacre.agent.checkpoint_planner import Held
from nacre.agent.hypervisors import guarding
from nacre.agent.hypervisors.abilities import CanSnapshotDisks
from nacre.agent.passages import Crossing
from nacre.agent.planner import Known
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.plug import can_plug
from nacre.agent.vms.presence import Presence
from nacre.model.ids import VolumeId
from nacre.protocol.messages import HeldVm

_MAYBE = VolumeId("")
"""Stands for one that the guest may have open or not: no set that is wanted has it, so that it is looked into."""


def known(machine: Machine) -> Known:
    """Return what the planner needs to know of a machine."""
    record, run = machine.record, machine.record.run
    return Known(
        intent=record.intent,
        presence=machine.presence,
        deleted=record.deleted,
        reboot_nonce=record.reboot_nonce,
        reset_nonce=record.reset_nonce,
        exit_reason=run.info.exit_reason if run is not None else None,
        ended_under=run.ended_under if run is not None else 0,
        failure=machine.failure.failure_class if machine.failure is not None else None,
        retry_at=machine.retry_at,
        volumes=_volumes(machine),
        frozen=machine.frozen,
        resumable=machine.resumable,
        run=run.info if run is not None else None,
        crossing=crossing(machine),
        held=_kept(machine),
    )


def crossing(machine: Machine) -> Crossing:
    """Return how a machine stands that comes from another node or goes to one."""
    record = machine.record
    return Crossing(
        sending=record.sending.stream if record.sending is not None else None,
        sent=record.sending is not None and record.sending.sent,
        astray=record.sending is not None and machine.outgoing is None,
        arriving=record.arriving.stream if record.arriving is not None else None,
        arrival=machine.arrival.state if machine.arrival is not None else None,
        offered=machine.offer is not None,
    )


def _kept(machine: Machine) -> Held:
    mine = machine.checkpoints
    can_merge = machine.guest is None or isinstance(machine.guest, CanSnapshotDisks)
    return Held(
        checkpoints=frozenset(mine.kept),
        begun=frozenset(mine.begun),
        restore_nonce=machine.record.restore_nonce,
        mergeable=mine.mergeable and can_merge,
        delayed=machine.delayed,
    )


def _volumes(machine: Machine) -> frozenset[VolumeId] | None:
    """Return the volumes that the guest has open; one that it may have open counts as another set than is wanted."""
    record = machine.record
    if record.run is None or not can_plug(machine.guest):
        return None
    return frozenset((*record.run.info.volumes, *([_MAYBE] if record.plugging else [])))


def held(machine: Machine) -> HeldVm:
    """Return what to say of a machine that was not told of."""
    intent = machine.record.intent
    running = machine.presence not in {Presence.NONE, Presence.UNKNOWN}
    return HeldVm(
        id=machine.id, name=intent.name if intent is not None else "", running=running, since=machine.record.found_at
    )


def waits_for_lease(machine: Machine) -> bool:
    """Whether it would have been started but for a lease."""
    return machine.failure is not None and machine.failure.code == guarding.LEASE_MISSING


def is_leased(machine: Machine, host: Host) -> bool:
    """Whether it may be started now, as far as leases go."""
    lease = host.lease_file(machine.id, machine.record.fence)
    return guarding.read_lease(lease) - host.clock.boottime() >= guarding.LEAST_LEFT_S

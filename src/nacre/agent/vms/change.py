"""Change a machine while it runs: its size, what its balloon holds, its disk, limits. Called by the executor.

One field after the other, each looked at before it is touched and put on record after it; what an agent that died left
undone is done again and finds itself done. What the guest's hypervisor cannot do is put on record as well, so that it
waits for a restart instead of being tried for ever.
"""

from collections.abc import Awaitable

import msgspec
import structlog

from nacre.agent.hypervisors.abilities import CanLimit, CanResize, CanResizeDisks
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms import launching
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.vm_changes import DISK_LIMITS, RECLAIM, applied, nic_index, pending, refused
from nacre.model.vms import RunInfo, VmSpec

log = structlog.get_logger()


async def change(machine: Machine, guest: Guest, spec: VmSpec, host: Host) -> None:
    """Have the guest be as `spec` says, as far as it can while it runs. May be repeated. Raises DriverError."""
    run = machine.record.run
    if run is None:
        return
    for field in pending(spec, run.info):
        try:
            await _apply(field, machine, guest, spec, host)
        except DriverError as error:
            if error.failure_class is not FailureClass.PERMANENT:
                raise
            log.info("vm.change_refused", vm=machine.id, field=field, code=error.code, next="waits for a restart")
            await _put(machine, refused(_info(machine), field))
        else:
            log.info("vm.changed", vm=machine.id, field=field)
            await _put(machine, applied(_info(machine), spec, field))


async def _apply(field: str, machine: Machine, guest: Guest, spec: VmSpec, host: Host) -> None:
    if field == "cpus" and isinstance(guest, CanResize):
        if (await guest.sizes()).cpus != spec.cpus:
            await guest.resize_cpus(spec.cpus)
    elif field == "memory_bytes" and isinstance(guest, CanResize):
        await _resize_memory(machine, guest, spec.memory_bytes, guest.handle.pid, host)
    elif field == RECLAIM and isinstance(guest, CanResize) and spec.memory.balloon is not None:
        await guest.reclaim(spec.memory.balloon.reclaim_bytes)
    elif field == "disk_bytes" and isinstance(guest, CanResizeDisks) and spec.disk_bytes is not None:
        await guest.resize_disk(launching.ROOT_DISK, spec.disk_bytes)
    else:
        await _limit(field, guest, spec)


async def _resize_memory(machine: Machine, guest: CanResize, wanted: int, pid: int, host: Host) -> None:
    """Give or take memory. The bound of the process is raised before, and lowered after."""
    now = (await guest.sizes()).memory_bytes
    if wanted > now:
        await in_thread(host.cgroups.add, machine.id, pid, wanted)
    if wanted != now:
        await guest.resize_memory(wanted)
    if wanted < now:
        await in_thread(host.cgroups.add, machine.id, pid, wanted)


def _limit(field: str, guest: Guest, spec: VmSpec) -> Awaitable[None]:
    if not isinstance(guest, CanLimit):
        raise DriverError(
            "change_unsupported",
            f"{field} cannot be changed while the machine runs",
            hint="restart the machine",
            failure_class=FailureClass.PERMANENT,
        )
    if field == DISK_LIMITS:
        return guest.limit_disk(launching.ROOT_DISK, spec.root_disk.limits)
    index = nic_index(field)
    options = spec.nics[index].options
    return guest.limit_nic(launching.nic_id(index), options.receive_limits, options.send_limits)


def _info(machine: Machine) -> RunInfo:
    run = machine.record.run
    assert run is not None
    return run.info


async def _put(machine: Machine, info: RunInfo) -> None:
    run = machine.record.run
    assert run is not None
    await machine.save(run=msgspec.structs.replace(run, info=info))
    machine.tell()

"""From an intent to a launch: what a driver is told about one life of a machine. Used by `start` and `adopt`."""

from dataclasses import replace
from pathlib import Path

from nacre.agent.hypervisors.launch import Arrival, DiskFile, Launch, UserNic
from nacre.agent.images.cache import CachedImage
from nacre.agent.vms.host import Host
from nacre.model.ids import RunId, VmId
from nacre.model.images import Role
from nacre.model.vms import HaPolicy, MachineType, VmIntent, nic_mac

ROOT_DISK = "root"


def launch(
    intent: VmIntent, image: CachedImage, disks: tuple[DiskFile, ...], *, run: RunId, lock_fd: int, host: Host
) -> Launch:
    """Return what the driver needs to start a machine. Pure."""
    spec = intent.spec
    return Launch(
        vm=intent.id,
        run=run,
        name=intent.name,
        machine=spec.machine,
        cpus=spec.cpus,
        memory_bytes=spec.memory_bytes,
        directory=host.place(intent.id),
        run_directory=host.run_place(intent.id),
        lock_fd=lock_fd,
        lease=host.lease_file(intent.id, intent.fence) if spec.ha is HaPolicy.RESTART else None,
        kernel=image.path(Role.KERNEL),
        initrd=image.path(Role.INITRD),
        kernel_args=kernel_args(intent, image.path(Role.KERNEL)),
        disks=disks,
        nics=nics(intent),
    )


def to_adopt(vm: VmId, run: RunId, host: Host, *, fence: int = 0) -> Launch:
    """Return what the driver needs to find a machine that runs already: where its sockets and logs are. Pure.

    `fence` is that of the placement on record: a frozen guest is known by its lease.
    """
    return Launch(
        vm=vm,
        run=run,
        name=vm,
        machine=MachineType.Q35,
        cpus=1,
        memory_bytes=0,
        directory=host.place(vm),
        run_directory=host.run_place(vm),
        lock_fd=-1,
        lease=host.lease_file(vm, fence),
    )


def to_receive(starting: Launch, arrival: Arrival) -> Launch:
    """Return what the driver needs to take a machine in that would be started by `starting`. Pure."""
    return replace(starting, arrival=arrival)


def kernel_args(intent: VmIntent, kernel: Path | None) -> str:
    """Return the image's kernel arguments and the machine's own. Pure."""
    if kernel is None:
        return ""
    return " ".join(part for part in (intent.image.kernel_args, intent.spec.kernel_args) if part)


def nics(intent: VmIntent) -> tuple[UserNic, ...]:
    """Return the machine's NICs; its published ports lead to the first. Pure."""
    return tuple(
        UserNic(
            id=f"nic{index}",
            mac=nic.mac or nic_mac(intent.id, index),
            publish=intent.spec.publish if index == 0 else (),
        )
        for index, nic in enumerate(intent.spec.nics)
    )

"""From an intent to a launch: what a driver is told about one life of a machine. Used by `start` and `adopt`."""

from dataclasses import dataclass, replace
from pathlib import Path

from nacre.agent.hypervisors.launch import Arrival, DiskFile, FirmwareFiles, Launch, RbdDisk, UserNic
from nacre.agent.images.cache import CachedImage
from nacre.agent.vms.host import Host
from nacre.model.ids import RunId, VmId
from nacre.model.images import Role
from nacre.model.vms import HaPolicy, InForce, MachineType, VmIntent, VmSpec, nic_mac

ROOT_DISK = "root"
SEED_DISK = "seed"
MEDIUM = "medium"


@dataclass(frozen=True, kw_only=True)
class Ready:
    """What was made ready for one life of a machine besides its disks."""

    firmware: FirmwareFiles | None = None
    tpm_socket: Path | None = None
    seed: Path | None = None
    """What the guest's cloud-init reads."""


NOTHING_READY = Ready()


def launch(
    intent: VmIntent,
    image: CachedImage,
    disks: tuple[DiskFile | RbdDisk, ...],
    *,
    run: RunId,
    lock_fd: int,
    host: Host,
    ready: Ready = NOTHING_READY,
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
        disks=(*(_as_asked(disk, spec) for disk in disks), *media(image), *seeds(ready)),
        nics=nics(intent),
        cpu=spec.cpu,
        memory=spec.memory,
        numa=spec.numa,
        devices=spec.devices,
        limit_groups=spec.limit_groups,
        firmware=ready.firmware,
        tpm_socket=ready.tpm_socket,
    )


def media(image: CachedImage) -> tuple[DiskFile, ...]:
    """Return the image's medium, after the disks: it is started from while there is nothing on those. Pure."""
    path = image.path(Role.ISO)
    if path is None:
        return ()
    return (DiskFile(id=MEDIUM, path=path, format="raw", read_only=True, cdrom=True),)


def seeds(ready: Ready) -> tuple[DiskFile, ...]:
    """Return what cloud-init reads, after all else, so that no other disk has another place because of it. Pure."""
    return () if ready.seed is None else (DiskFile(id=SEED_DISK, path=ready.seed, format="raw", read_only=True),)


def _as_asked(disk: DiskFile | RbdDisk, spec: VmSpec) -> DiskFile | RbdDisk:
    """Connect the root disk as the machine's configuration says. Volumes come with options of their own."""
    return replace(disk, options=spec.root_disk) if disk.id == ROOT_DISK else disk


def nic_id(index: int) -> str:
    """Name a NIC by its place."""
    return f"nic{index}"


def to_adopt(vm: VmId, run: RunId, host: Host, *, fence: int = 0, config: InForce | None = None) -> Launch:
    """Return what the driver needs to find a machine that runs already: where its sockets and logs are. Pure.

    `fence` is that of the placement on record: a frozen guest is known by its lease. `config` is what it has, which
    matters to what is added to it.
    """
    has = config or InForce(least_cpus=1, least_memory_bytes=0)
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
        cpu=has.cpu,
        memory=has.memory,
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
            id=nic_id(index),
            mac=nic.mac or nic_mac(intent.id, index),
            publish=intent.spec.publish if index == 0 else (),
            options=nic.options,
        )
        for index, nic in enumerate(intent.spec.nics)
    )

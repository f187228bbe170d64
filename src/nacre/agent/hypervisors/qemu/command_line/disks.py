"""Disks: what is written to where, and the device that the guest sees. Pure; the same parts are used for hot plug."""

from dataclasses import dataclass
from pathlib import Path

from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, RbdDisk, VhostUserDisk
from nacre.agent.hypervisors.qemu.command_line import bus, limits, words
from nacre.agent.hypervisors.qemu.command_line.places import (
    chardev_of,
    device_of,
    group_of,
    limits_of,
    node_of,
    secret_of,
)
from nacre.agent.hypervisors.qemu.command_line.refusal import no_segments, refused
from nacre.agent.hypervisors.qemu.command_line.words import Props, Value
from nacre.model.hardware import NO_LIMITS, DiskOptions
from nacre.model.vms import MachineType

DRIVES = "drives0"
_SATA_DRIVES = 6
_IDE_DRIVES = 4


@dataclass(frozen=True, kw_only=True)
class DiskParts:
    """A disk as QMP takes it: in this order, and taken away in the opposite one."""

    limits: Props | None
    """An object, if the disk has limits of its own."""
    socket: Path | None
    """Where another process serves it."""
    node: Props | None
    device: Props
    secret: Props | None = None
    """An object, if it takes a key to open the disk."""


def disks(launch: Launch, taken: dict[str, int]) -> list[str]:
    """Return the words of all disks. `taken` is their places. Raises DriverError."""
    found: list[str] = []
    for group in launch.limit_groups:
        found += words.instance(limit_group(group_of(group.name), limits.group(group.limits)))
    drives = 0
    controller = False
    for index, disk in enumerate(launch.disks):
        boot = index if launch.kernel is None else None  # with a kernel of its own, the first place belongs to that
        if isinstance(disk, DiskFile) and disk.cdrom:
            if not controller and not _has_drives(launch):
                found += words.device(_controller(launch.machine))
                controller = True
            found += _words(_drive(launch, disk, drives, boot))
            drives += 1
        else:
            found += _words(parts(disk, bus.place(launch.machine, taken[disk.id]), boot))
    return found


def parts(disk: Disk, place: Props, boot: int | None = None) -> DiskParts:
    """Return the parts of a disk. Raises DriverError for what QEMU cannot do."""
    options = disk.options
    check(disk)
    tuning: dict[str, Value] = {"num-queues": options.queues, "queue-size": options.queue_size}
    index: Props = {} if boot is None else {"bootindex": boot}
    if isinstance(disk, VhostUserDisk):
        device: Props = {"driver": "vhost-user-blk-pci", "id": device_of(disk.id), "chardev": chardev_of(disk.id)}
        device = {**device, **tuning, **index, **place}
        return DiskParts(limits=None, socket=disk.socket, node=None, device=device)
    device = {"driver": "virtio-blk-pci", "id": device_of(disk.id), "drive": node_of(disk.id)}
    device = {**device, "serial": options.serial or disk.id[:20], **tuning, **index, **place}
    own = limit_group(limits_of(disk.id), limits.group(options.limits)) if _has_own_limits(options) else None
    return DiskParts(limits=own, socket=None, node=_node(disk), device=device, secret=_secret(disk))


def limit_group(name: str, values: Props) -> Props:
    """Return an object that holds limits."""
    return {"qom-type": "throttle-group", "id": name, "limits": values}


def check(disk: Disk) -> None:
    """Raise DriverError for what QEMU cannot do with a disk."""
    options = disk.options
    if options.queue_size & (options.queue_size - 1):
        raise refused(
            "queue_size_invalid",
            f"disk {disk.id}: a queue holds a power of two of requests, not {options.queue_size}",
            "use 64, 128 or 256",
        )
    if options.pci_segment:
        raise no_segments(f"disk {disk.id}")
    if isinstance(disk, VhostUserDisk) and (options.limits != NO_LIMITS or options.limit_group):
        raise refused(
            "disk_limits_unsupported",
            f"disk {disk.id} is served by another process, past QEMU and its limits",
            "limit it in the process that serves it",
        )


def _words(found: DiskParts) -> list[str]:
    made = words.instance(found.limits) if found.limits is not None else []
    if found.secret is not None:
        made += words.instance(found.secret)
    if found.socket is not None:
        name = str(found.device["chardev"])
        made += ["-chardev", words.joined("socket", {"id": name, "path": str(found.socket)})]
    if found.node is not None:
        made += words.blockdev(found.node)
    return made + words.device(found.device)


def _has_own_limits(options: DiskOptions) -> bool:
    return options.limits != NO_LIMITS and not options.limit_group


def _node(disk: DiskFile | RbdDisk) -> Props:
    options = disk.options
    limited = options.limits != NO_LIMITS or bool(options.limit_group)
    node = {**_content(disk, node_of(disk.id, "format") if limited else node_of(disk.id))}
    if not limited:
        return node
    group = group_of(options.limit_group) if options.limit_group else limits_of(disk.id)
    read_only: Props = {"read-only": True} if node["read-only"] else {}
    return {"driver": "throttle", "node-name": node_of(disk.id), "throttle-group": group, "file": node, **read_only}


def _content(disk: DiskFile | RbdDisk, name: str) -> Props:
    cache: Props = {"cache": {"direct": True}} if disk.options.direct else {}
    if isinstance(disk, RbdDisk):
        storage: dict[str, Value] = {"driver": "rbd", "pool": disk.pool, "image": disk.image, "user": disk.user}
        storage["conf"] = str(disk.configuration)
        if disk.secret is not None:
            storage["key-secret"] = secret_of(disk.id)
        format_ = "raw"
    else:
        storage = {"driver": _file_driver(disk.path), "filename": str(disk.path)}
        format_ = disk.format
    storage |= {"node-name": node_of(disk.id, "file"), **cache}
    return {
        "driver": format_,
        "node-name": name,
        "file": storage,
        "read-only": disk.read_only or disk.options.read_only,
        "discard": "unmap",
        **cache,
    }


def _secret(disk: DiskFile | RbdDisk) -> Props | None:
    if not isinstance(disk, RbdDisk) or disk.secret is None:
        return None
    return {"qom-type": "secret", "id": secret_of(disk.id), "file": str(disk.secret), "format": "base64"}


def _file_driver(path: Path) -> str:
    """QEMU wants to be told files from devices. What is in /dev is a device, except what is in memory."""
    inside = path.is_relative_to("/dev") and not path.is_relative_to("/dev/shm")  # noqa: S108  # named, not used
    return "host_device" if inside else "file"


# Drives with a medium


def _has_drives(launch: Launch) -> bool:
    """Whether the board's own drives are used. Kernels for clouds have no driver for those of q35, Windows no other."""
    return launch.machine is MachineType.PC or (launch.machine is MachineType.Q35 and launch.cpu.hyperv)


def _controller(machine: MachineType) -> Props:
    return {"driver": "virtio-scsi-pci", "id": DRIVES, **bus.fixed(machine, DRIVES)}


def _drive(launch: Launch, disk: DiskFile, number: int, boot: int | None) -> DiskParts:
    most = _IDE_DRIVES if launch.machine is MachineType.PC else _SATA_DRIVES
    if number >= most:
        raise refused(
            "too_many_drives", f"the machine has room for {most} drives with a medium", "connect the rest as disks"
        )
    check(disk)
    device: dict[str, Value] = {"id": device_of(disk.id), "drive": node_of(disk.id)}
    if _has_drives(launch):
        on_pc = launch.machine is MachineType.PC
        ide: Props = {"bus": f"ide.{number // 2}", "unit": number % 2} if on_pc else {"bus": f"ide.{number}"}
        device = {"driver": "ide-cd", **device, **ide}
    else:
        device = {"driver": "scsi-cd", **device, "bus": f"{DRIVES}.0", "scsi-id": number}
    if boot is not None:
        device["bootindex"] = boot
    node = {**_content(disk, node_of(disk.id)), "read-only": True}
    return DiskParts(limits=None, socket=None, node=node, device=device)

"""Disks, NICs, consoles and limits as Cloud Hypervisor's API wants them. Pure. Used by `config` and for hot plugging.

Field names and their meaning: the project's `cloud-hypervisor.yaml`; what it refuses is refused here first, because it
validates only when a machine boots, and drops fields that it does not know without a word.
"""

from nacre.agent.hypervisors.cloud_hypervisor import paths
from nacre.agent.hypervisors.cloud_hypervisor.refusals import unfit, unsupported
from nacre.agent.hypervisors.launch import (
    Disk,
    DiskFile,
    MacvtapNic,
    Nic,
    RbdDisk,
    TapNic,
    UserNic,
    VhostUserDisk,
    VhostUserNic,
)
from nacre.model.hardware import ConsoleMode, DeviceOptions, DiskOptions, NicOptions, RateLimits, TokenBucket

Fields = dict[str, object]

MIN_MTU = 1280
"""Less than that is against the virtio specification, says Cloud Hypervisor."""
MIN_DISK_QUEUE = 4
_FORMATS = {"raw": "Raw", "qcow2": "Qcow2"}
_CONSOLES = {
    ConsoleMode.OFF: "Off",
    ConsoleMode.NULL: "Null",
    ConsoleMode.PTY: "Pty",
    ConsoleMode.TTY: "Tty",
}


def disk(given: Disk, *, cpus: int) -> Fields:
    """Return a `DiskConfig`. Raises DriverError."""
    check_id(given.id)
    options = given.options
    _check_queues(given.id, options.queues, cpus)
    if options.queue_size < MIN_DISK_QUEUE or not _is_power_of_two(options.queue_size):
        raise unfit(
            "queue_size_unfit",
            f"disk {given.id} has a queue size of {options.queue_size}",
            f"use a power of two from {MIN_DISK_QUEUE} to 1024",
        )
    fields: Fields = {"id": given.id, "num_queues": options.queues, "queue_size": options.queue_size}
    fields |= {"pci_segment": options.pci_segment} if options.pci_segment else {}
    match given:
        case RbdDisk():
            raise unsupported(
                "disk_unsupported",
                f"does not reach Ceph by itself, so it cannot have disk {given.id}",
                "map the image on the node (rbd map), or use the hypervisor qemu",
            )
        case VhostUserDisk():
            if not _is_unlimited(options.limits) or options.limit_group:
                raise unsupported(
                    "limits_unsupported",
                    f"does not limit disk {given.id}, which another process serves",
                    "limit it where it is served",
                )
            return fields | {"vhost_user": True, "vhost_socket": str(given.socket)}
        case DiskFile():
            return fields | _file(given, options)


def nic(given: Nic, *, cpus: int) -> Fields:
    """Return a `NetConfig`. That of a macvtap names no device: it comes with descriptors. Raises DriverError."""
    if isinstance(given, UserNic):
        raise unsupported(
            "nic_unsupported",
            f"has no user-mode network, which NIC {given.id} asks for",
            "connect it to a bridge or a network of the platform, or use the hypervisor qemu",
        )
    check_id(given.id)
    options = given.options
    _check_nic(given.id, options, cpus)
    # Without the checksum there is no cutting either: the host has to fill it in afterwards.
    fields: Fields = {
        "id": given.id,
        "mac": given.mac,
        "num_queues": 2 * options.queues,
        "queue_size": options.queue_size,
        "offload_tso": options.tso and options.checksum,
        "offload_ufo": options.ufo and options.checksum,
        "offload_csum": options.checksum,
    }
    fields |= {"mtu": options.mtu} if options.mtu is not None else {}
    fields |= {"host_mac": options.host_mac} if options.host_mac is not None else {}
    fields |= {"iommu": True} if options.iommu else {}
    fields |= {"pci_segment": options.pci_segment} if options.pci_segment else {}
    if not _is_unlimited(options.receive_limits):
        fields["rate_limiter_config"] = limits(options.receive_limits)
    match given:
        case TapNic():
            return fields | {"tap": given.device}
        case MacvtapNic():
            return fields
        case VhostUserNic():
            if "rate_limiter_config" in fields:
                raise unsupported(
                    "limits_unsupported",
                    f"does not limit NIC {given.id}, which another process serves",
                    "limit it where it is served",
                )
            mode = "Server" if given.server else "Client"
            return fields | {"vhost_user": True, "vhost_socket": str(given.socket), "vhost_mode": mode}


def limits(given: RateLimits) -> Fields:
    """Return a `RateLimiterConfig`."""
    fields: Fields = {}
    if given.bandwidth is not None:
        fields["bandwidth"] = _bucket(given.bandwidth)
    if given.operations is not None:
        fields["ops"] = _bucket(given.operations)
    return fields


def serial(options: DeviceOptions) -> Fields:
    """Return a `SerialConfig`. A file is written by the keeper of the console, for Cloud Hypervisor empties its own."""
    if has_keeper(options):
        return {"mode": "Socket", "socket": paths.SERIAL_SOCKET}
    return {"mode": _CONSOLES[options.serial]}


def has_keeper(options: DeviceOptions) -> bool:
    """Whether the serial port is read by a keeper of the console."""
    return options.serial in {ConsoleMode.SOCKET, ConsoleMode.FILE}


def console(options: DeviceOptions) -> Fields:
    """Return a `ConsoleConfig`: the virtio console. Never left out: it would be the process's terminal."""
    match options.console:
        case ConsoleMode.SOCKET:
            raise unsupported(
                "console_unsupported",
                "connects a virtio console to no socket",
                "use file or pty for it, and the serial port for the interactive console",
            )
        case ConsoleMode.FILE:
            return {"mode": "File", "file": paths.VIRTIO_LOG}
        case other:
            return {"mode": _CONSOLES[other]}


def is_served_elsewhere(given: Disk | Nic) -> bool:
    """Whether another process of this host works for a device, and therefore shares the guest's memory."""
    return isinstance(given, VhostUserDisk | VhostUserNic)


def check_id(name: str) -> None:
    """Raise DriverError for a name of a device that Cloud Hypervisor keeps for itself."""
    if name.startswith("__"):
        raise unsupported(
            "device_name_unfit", f"keeps names that begin with two underscores, such as {name}", "rename the device"
        )


def _file(given: DiskFile, options: DiskOptions) -> Fields:
    if given.format not in _FORMATS:
        raise unsupported(
            "disk_unsupported",
            f"does not read disk {given.id}, whose format is {given.format}",
            "convert it to raw or qcow2",
        )
    # A format that is not named would be guessed from what the guest has written.
    fields: Fields = {
        "path": paths.disk_link(given.id),
        "image_type": _FORMATS[given.format],
        "serial": options.serial or given.id[:20],
        "readonly": given.read_only or options.read_only or given.cdrom,
    }
    if given.format == "qcow2":
        # The agent has made the file itself, above an image of its own cache.
        fields["backing_files"] = True
    fields |= {"direct": True} if options.direct else {}
    if options.limit_group:
        if not _is_unlimited(options.limits):
            raise unfit(
                "limits_unfit",
                f"disk {given.id} has limits of its own and those of the group {options.limit_group}",
                "leave one of them away",
            )
        fields["rate_limit_group"] = options.limit_group
    elif not _is_unlimited(options.limits):
        fields["rate_limiter_config"] = limits(options.limits)
    return fields


def _check_nic(name: str, options: NicOptions, cpus: int) -> None:
    _check_queues(name, options.queues, cpus)
    if options.mtu is not None and options.mtu < MIN_MTU:
        raise unsupported(
            "mtu_unsupported", f"takes no MTU below {MIN_MTU}, and NIC {name} has {options.mtu}", "use a larger one"
        )
    if not _is_power_of_two(options.queue_size):
        raise unfit("queue_size_unfit", f"NIC {name} has a queue size of {options.queue_size}", "use a power of two")
    if options.receive_limits != options.send_limits:
        raise unsupported(
            "limits_unsupported",
            f"limits both directions of a NIC alike, and those of {name} differ",
            "give both the same limits, or use the hypervisor firecracker",
        )


def _check_queues(name: str, queues: int, cpus: int) -> None:
    if queues > cpus:
        raise unsupported(
            "queues_unfit",
            f"gives a device at most one queue per CPU, and {name} is to have {queues} with {cpus}",
            "give the machine more CPUs, or the device fewer queues",
        )


def _bucket(given: TokenBucket) -> Fields:
    fields: Fields = {"size": given.size, "refill_time": given.refill_ms}
    return fields | ({"one_time_burst": given.burst} if given.burst else {})


def _is_unlimited(given: RateLimits) -> bool:
    return given.bandwidth is None and given.operations is None


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0

"""What a Cloud Hypervisor stand-in finds wrong with a configuration, when the machine boots or a device is added."""

import fcntl
import os
import struct
from pathlib import Path
from typing import cast

Fields = dict[str, object]

MOST_QUEUE = 32768


class ApiError(Exception):
    """A refusal: the status, and the chain of reasons below `Error from API`."""

    def __init__(self, status: int, *chain: str) -> None:
        super().__init__(*chain)
        self.status = status
        self.chain = list(chain)


def invalid(reason: str) -> ApiError:
    """The error for a configuration that is wrong in itself."""
    return ApiError(400, "The VM config is not valid", reason)


def parts(config: Fields, name: str) -> list[Fields]:
    """The devices of one kind."""
    return cast("list[Fields]", config.get(name) or [])


def part(config: Fields, name: str) -> Fields:
    """One part of a configuration."""
    return cast("Fields", config.get(name) or {})


def number(fields: Fields, name: str, default: int = 0) -> int:
    """A number of a configuration."""
    return cast("int", fields.get(name) if fields.get(name) is not None else default)


def check(config: Fields) -> None:
    """Raise ApiError for what does not go together."""
    payload = part(config, "payload")
    if bool(payload.get("kernel")) == bool(payload.get("firmware")):
        raise invalid("Payload configuration is not bootable")
    cpus, memory = part(config, "cpus"), part(config, "memory")
    boot, most = number(cpus, "boot_vcpus", 1), number(cpus, "max_vcpus", 1)
    if most < boot:
        raise invalid(f"Max CPUs ({most}) lower than boot CPUs ({boot})")
    if "topology" in cpus:
        _check_topology(part(cpus, "topology"), most)
    if memory.get("mergeable") and memory.get("shared"):
        raise invalid("Invalid to set both 'mergeable' and 'shared' for memory")
    if "hugepage_size" in memory and not memory.get("hugepages"):
        raise invalid("Huge page size specified but huge pages not enabled")
    if memory.get("zones") and number(memory, "size"):
        raise invalid("Memory size must be 0 when memory zones are defined")
    balloon, size = number(part(config, "balloon"), "size"), number(memory, "size", 512 << 20)
    if balloon > size:
        raise invalid(f"Balloon size ({balloon}) greater than RAM ({size})")
    if part(config, "console").get("mode") == "Socket":
        raise ApiError(500, "Error creating console devices", "No socket option support for console device")
    check_names(config)
    for disk in parts(config, "disks"):
        check_disk(disk, config)
    for net in parts(config, "net"):
        check_net(net, config, descriptors=cast("list[int]", net.get("fds") or []))


def check_names(config: Fields) -> None:
    """Raise ApiError if two devices have one name, or one has a name that is kept."""
    seen: set[object] = set()
    for kind in ("disks", "net", "fs", "pmem", "devices", "vdpa"):
        for device in parts(config, kind):
            name = device.get("id")
            if name is None:
                continue
            if name in seen:
                raise ApiError(409, "The device could not be added to the VM", f"Identifier {name} is not unique")
            if str(name).startswith("__"):
                raise invalid(f"Identifier {name} is not valid")
            seen.add(name)


def check_disk(disk: Fields, config: Fields) -> None:
    """Raise ApiError for a disk that cannot be."""
    _check_sharing(disk, config)
    queues, boot = number(disk, "num_queues", 1), number(part(config, "cpus"), "boot_vcpus", 1)
    if queues > boot:
        raise invalid(f"Queue count ({queues}) must not exceed boot vCPUs ({boot})")
    size = number(disk, "queue_size", 128)
    if size <= 2:
        raise invalid(f"Block queue size must be greater than 2: {size}")
    _check_power(size)
    if len(str(disk.get("serial") or "")) > 20:
        raise invalid(f"Block device serial length ({len(str(disk['serial']))}) exceeds maximum allowed length (20)")
    group = disk.get("rate_limit_group")
    names = [each.get("id") for each in parts(config, "rate_limit_groups")]
    if group is not None and ("rate_limiter_config" in disk or group not in names):
        raise invalid("Invalid rate-limiter group")
    if bool(disk.get("path")) == bool(disk.get("vhost_socket")):
        raise invalid("Disk path and vhost socket both provided")


def check_net(net: Fields, config: Fields, *, descriptors: list[int]) -> None:
    """Raise ApiError for a NIC that cannot be."""
    _check_sharing(net, config)
    queues, boot = number(net, "num_queues", 2), number(part(config, "cpus"), "boot_vcpus", 1)
    if queues < 2:
        raise invalid(f"Number of queues ({queues}) to virtio_net should be higher than 2")
    if descriptors and len(descriptors) * 2 != queues:
        raise invalid(
            f"Number of queues ({queues}) to virtio_net does not match the number of FDs ({len(descriptors)})"
        )
    if queues // 2 > boot:
        raise invalid(f"Queue count ({queues // 2}) must not exceed boot vCPUs ({boot})")
    if number(net, "mtu", 1500) < 1280:
        raise invalid(f"Provided MTU {net['mtu']} is lower than 1280 (expected by VIRTIO specification)")
    if not net.get("offload_csum", True) and (net.get("offload_tso", True) or net.get("offload_ufo", True)):
        raise invalid('"offload_tso" and "offload_ufo" depend on "offload_csum"')
    _check_power(number(net, "queue_size", 256))


def open_files(config: Fields) -> None:
    """Raise ApiError for a file that is not there."""
    payload = part(config, "payload")
    for name in ("kernel", "initramfs", "firmware"):
        if payload.get(name) and not Path(str(payload[name])).exists():
            raise ApiError(500, "The VM could not boot", f"Cannot open {name} file", "No such file or directory")
    for disk in parts(config, "disks"):
        open_disk(disk)


def open_disk(disk: Fields) -> None:
    """Raise ApiError for a disk whose file cannot be opened."""
    path = Path(str(disk.get("path") or disk.get("vhost_socket")))
    flags = os.O_RDONLY if disk.get("readonly") or disk.get("vhost_socket") else os.O_RDWR
    if disk.get("vhost_socket"):
        if not path.is_socket():
            raise ApiError(500, "The VM could not boot", "Failed connecting to vhost-user socket")
        return
    try:
        os.close(os.open(path, flags))
    except OSError as error:
        raise ApiError(
            500, "Error from device manager", f"Cannot open disk path: {path.absolute()}", str(error.strerror)
        ) from error


def locked(disk: Fields) -> int | None:
    """Lock a disk against other processes, as long as the descriptor is open. Raises ApiError."""
    if disk.get("vhost_socket"):
        return None
    shared = bool(disk.get("readonly"))
    fd = os.open(str(disk["path"]), os.O_RDONLY if shared else os.O_RDWR)
    lock = struct.pack("hhqqi", fcntl.F_RDLCK if shared else fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
    except OSError as error:
        os.close(fd)
        raise ApiError(
            500,
            "Error locking disk images: Another instance likely holds a lock",
            f"Failed to get {'Read' if shared else 'Write'} lock for disk image: {Path(str(disk['path'])).absolute()}",
            "The file is already locked",
        ) from error
    return fd


def _check_sharing(device: Fields, config: Fields) -> None:
    memory = part(config, "memory")
    zones = parts(memory, "zones")
    shared = any(each.get("shared") or each.get("hugepages") for each in (memory, *zones))
    if device.get("vhost_user") and not shared:
        raise invalid("Using vhost-user requires using shared memory or huge pages")
    if device.get("vhost_user") and "rate_limiter_config" in device:
        raise invalid("Rate limiting is not supported with vhost-user")


def _check_topology(topology: Fields, most: int) -> None:
    product = 1
    for value in topology.values():
        product *= cast("int", value)
    if product != most:
        raise invalid("Product of CPU topology parts does not match maximum vCPU")
    if number(topology, "threads_per_core", 1) > 2:
        raise invalid("CPU topology supports at most 2 threads per core")


def _check_power(size: int) -> None:
    if size > MOST_QUEUE or size & (size - 1):
        raise invalid(f"Queue size must be a power of 2 no greater than {MOST_QUEUE}: {size}")

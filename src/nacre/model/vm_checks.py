"""Whether the parts of a machine's configuration fit together. Called by services before anything is written. Pure.

What a single value may be is in its type; here is what values mean for each other. What only some hypervisors can do
is in `vm_needs`.
"""

from collections.abc import Iterator
from ipaddress import ip_address

from nacre.errors import InvalidInputError, UnsupportedError
from nacre.model.hardware import HUGE_PAGES, NO_LIMITS, Firmware, Graphics
from nacre.model.placement import check_placement
from nacre.model.units import MIB, format_size
from nacre.model.vms import DEFAULT_HYPERVISOR, MachineType, NetworkKind, PublishedPort, VmSpec

BLOCK = 128 * MIB
"""Guests take memory that is added while they run in blocks of this size."""
_MOST_CPUS = 4096


def check_spec(spec: VmSpec) -> VmSpec:
    """Return `spec` if its parts fit together. Raises InvalidInputError or UnsupportedError naming the field."""
    _check_ports(spec)
    if "\n" in spec.kernel_args or "\0" in spec.kernel_args:
        raise _invalid("kernel_args", "invalid_kernel_args", "kernel_args has a line break", "write it on one line")
    check_placement(spec.placement)
    _check_cpus(spec)
    _check_memory(spec)
    _check_numa(spec)
    _check_disk(spec)
    _check_nics(spec)
    _check_boot(spec)
    return spec


def ports_overlap(one: PublishedPort, other: PublishedPort) -> bool:
    """Whether two published ports cannot both be listened on: same protocol and port, same or wildcard address."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    first, second = ip_address(one.host_address), ip_address(other.host_address)
    return first == second or first.is_unspecified or second.is_unspecified


def numbers(text: str, field: str) -> frozenset[int]:
    """Read a list of CPUs or memory nodes such as `0-3,8`. Raises InvalidInputError naming `field`."""
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        begin, end = int(first), int(last or first)
        if end < begin or end >= _MOST_CPUS:
            raise _invalid(
                field,
                "invalid_list",
                f"{part} is no range of numbers below {_MOST_CPUS}",
                "write 0-3,8 for 0 to 3 and 8",
            )
        found |= set(range(begin, end + 1))
    return frozenset(found)


def _check_ports(spec: VmSpec) -> None:
    for index, port in enumerate(spec.publish):
        field = f"publish[{index}]"
        try:
            address = ip_address(port.host_address)
        except ValueError as error:
            raise _invalid(
                f"{field}.host_address",
                "invalid_address",
                f"{port.host_address!r} is not an IP address",
                "publish on an address of the node: 127.0.0.1 for local use, 0.0.0.0 for every address",
            ) from error
        if address.version == 6:
            raise UnsupportedError(
                "ipv6_publish_unsupported",
                f"{port.host_address} is an IPv6 address, and QEMU's user-mode network publishes on IPv4 only",
                hint="publish on an IPv4 address of the node, or put a proxy in front of it",
                field=f"{field}.host_address",
            )
        clash = next((p for p in spec.publish[:index] if ports_overlap(p, port)), None)
        if clash is not None:
            raise _invalid(field, "port_published_twice", f"{port} and {clash} use the same port", "change one of them")
    if spec.publish and not spec.nics:
        raise _invalid(
            "publish", "publish_without_nic", "ports are published but there is no NIC", "add a user-mode NIC"
        )


def _check_cpus(spec: VmSpec) -> None:
    cpu, most = spec.cpu, most_cpus(spec)
    if most < spec.cpus:
        raise _invalid(
            "cpu.max",
            "maximum_too_small",
            f"the machine starts with {spec.cpus} CPUs and may have {most} at most",
            "raise cpu.max, or leave it out",
        )
    if cpu.topology is not None and cpu.topology.cpus != most:
        raise _invalid(
            "cpu.topology",
            "topology_mismatch",
            f"the topology has {cpu.topology.cpus} CPUs, the machine {most} at most",
            "make threads x cores x dies x packages the number of CPUs that there may be at most",
        )
    pinned: set[int] = set()
    for index, pin in enumerate(cpu.pins):
        field = f"cpu.pins[{index}]"
        if pin.cpu >= most:
            raise _invalid(
                f"{field}.cpu",
                "pin_out_of_range",
                f"there is no CPU {pin.cpu}: the machine has the CPUs 0 to {most - 1}",
                "pin one that there is, or raise cpu.max",
            )
        if pin.cpu in pinned:
            raise _invalid(
                f"{field}.cpu", "pinned_twice", f"CPU {pin.cpu} is pinned twice", "name all of its CPUs in one pin"
            )
        pinned.add(pin.cpu)
        numbers(pin.host_cpus, f"{field}.host_cpus")


def _check_memory(spec: VmSpec) -> None:
    memory, most = spec.memory, most_memory(spec)
    if most < spec.memory_bytes:
        raise _invalid(
            "memory.max_bytes",
            "maximum_too_small",
            f"the machine starts with {format_size(spec.memory_bytes)} of memory and may have {format_size(most)}",
            "raise memory.max_bytes, or leave it out",
        )
    if (most - spec.memory_bytes) % BLOCK and memory.max_bytes is not None:
        raise _invalid(
            "memory.max_bytes",
            "memory_steps",
            f"memory is added to a running machine in steps of {format_size(BLOCK)}",
            f"let memory.max_bytes differ from memory_bytes by a multiple of {format_size(BLOCK)}",
        )
    pages = memory.hugepage_bytes
    if not memory.thp and pages is None and spec.hypervisor == DEFAULT_HYPERVISOR:
        raise UnsupportedError(
            "thp_fixed",
            "QEMU always lets the host use transparent huge pages for a machine",
            hint="leave thp on, or set it for the whole node in /sys/kernel/mm/transparent_hugepage",
            field="memory.thp",
        )
    if pages is not None and pages not in HUGE_PAGES:
        raise _invalid(
            "memory.hugepage_bytes",
            "hugepage_size",
            f"there are no huge pages of {pages} bytes",
            f"use {' or '.join(f'{size} ({format_size(size)})' for size in HUGE_PAGES)}",
        )
    if pages is not None and (spec.memory_bytes % pages or most % pages):
        raise _invalid(
            "memory.hugepage_bytes",
            "hugepage_size",
            f"the memory is no whole number of huge pages of {format_size(pages)}",
            "choose a size of memory that is, or smaller pages",
        )
    if memory.balloon is not None and memory.balloon.reclaim_bytes >= spec.memory_bytes:
        raise _invalid(
            "memory.balloon.reclaim_bytes",
            "reclaim_too_large",
            "the balloon cannot take all of the machine's memory",
            f"take less than {format_size(spec.memory_bytes)}",
        )


def _check_numa(spec: VmSpec) -> None:
    if not spec.numa:
        return
    total = sum(cell.memory_bytes for cell in spec.numa)
    if total != spec.memory_bytes:
        raise _invalid(
            "numa",
            "numa_memory_mismatch",
            f"the memory nodes have {format_size(total)} together, the machine {format_size(spec.memory_bytes)}",
            "give the nodes as much memory as the machine has",
        )
    most, named = most_cpus(spec), set[int]()
    for index, cell in enumerate(spec.numa):
        cpus = numbers(cell.cpus, f"numa[{index}].cpus")
        wrong = sorted(cpus & named or {cpu for cpu in cpus if cpu >= most})
        if wrong:
            raise _invalid(
                f"numa[{index}].cpus",
                "numa_cpus_mismatch",
                f"CPU {wrong[0]} is named twice" if wrong[0] in named else f"there is no CPU {wrong[0]}",
                f"name each of the CPUs 0 to {most - 1} once",
            )
        named |= cpus
        if cell.host_nodes is not None:
            numbers(cell.host_nodes, f"numa[{index}].host_nodes")
    if len(named) < most:
        missing = min(set(range(most)) - named)
        raise _invalid(
            "numa",
            "numa_cpus_mismatch",
            f"CPU {missing} is in no memory node",
            f"name each of the CPUs 0 to {most - 1} once",
        )


def _check_disk(spec: VmSpec) -> None:
    disk, groups = spec.root_disk, [group.name for group in spec.limit_groups]
    _check_power_of_two(disk.queue_size, "root_disk.queue_size")
    for index, name in enumerate(groups):
        if name in groups[:index]:
            raise _invalid(
                f"limit_groups[{index}].name", "limit_group_twice", f"there are two groups {name}", "rename one of them"
            )
    if not disk.limit_group:
        return
    if disk.limit_group not in groups:
        raise _invalid(
            "root_disk.limit_group",
            "limit_group_unknown",
            f"the machine has no group of limits {disk.limit_group}",
            f"define it in limit_groups; there are: {', '.join(groups) or 'none'}",
        )
    if disk.limits != NO_LIMITS:
        raise _invalid(
            "root_disk.limits",
            "limits_twice",
            "the disk has limits of its own and is in a group besides",
            "leave out either limits or limit_group",
        )


def _check_nics(spec: VmSpec) -> None:
    for index, nic in enumerate(spec.nics):
        field, options = f"nics[{index}].options", nic.options
        _check_power_of_two(options.queue_size, f"{field}.queue_size")
        if nic.network is not NetworkKind.USER:
            continue
        for asked, name in ((options.queues > 1, "queues"), (options.host_mac is not None, "host_mac")):
            if asked:
                raise _invalid(
                    f"{field}.{name}",
                    "user_network_limited",
                    "a user-mode network has one queue, and no address on the node's side",
                    "leave it out, or connect the NIC to a network of the node",
                )


def _check_boot(spec: VmSpec) -> None:
    if spec.boot.secure_boot and spec.boot.firmware is not Firmware.UEFI:
        raise _invalid(
            "boot.secure_boot",
            "secure_boot_needs_uefi",
            "secure boot is a part of UEFI, and the machine starts by BIOS",
            "set boot.firmware to uefi, or leave secure_boot out",
        )
    if spec.hypervisor != DEFAULT_HYPERVISOR:
        return
    if spec.boot.secure_boot and spec.machine is not MachineType.Q35:
        raise _other_board("boot.secure_boot", "secure boot needs the machine type q35")
    if spec.machine is MachineType.MICROVM:
        for field, what in _beyond_a_microvm(spec):
            raise _other_board(field, f"a microvm has no {what}")


def _beyond_a_microvm(spec: VmSpec) -> Iterator[tuple[str, str]]:
    """Yield the fields that ask for what the board does not have, and what that is."""
    asked = {
        "cpu.max": (most_cpus(spec) > spec.cpus, "CPUs that are added while it runs"),
        "memory.max_bytes": (most_memory(spec) > spec.memory_bytes, "memory that is added while it runs"),
        "numa": (bool(spec.numa), "memory nodes"),
        "boot.firmware": (spec.boot.firmware is Firmware.UEFI, "UEFI"),
        "devices.graphics": (spec.devices.graphics is not Graphics.NONE, "screen"),
        "devices.watchdog": (spec.devices.watchdog is not None, "watchdog"),
        "devices.tpm": (spec.devices.tpm, "TPM"),
        "devices.panic": (spec.devices.panic, "device for panics"),
    }
    asked |= {f"nics[{index}].options.iommu": (nic.options.iommu, "IOMMU") for index, nic in enumerate(spec.nics)}
    yield from ((field, what) for field, (wanted, what) in asked.items() if wanted)


def most_cpus(spec: VmSpec) -> int:
    """How many CPUs there may be while the machine runs."""
    return spec.cpus if spec.cpu.max is None else spec.cpu.max


def most_memory(spec: VmSpec) -> int:
    """How much memory there may be while the machine runs."""
    return spec.memory_bytes if spec.memory.max_bytes is None else spec.memory.max_bytes


def _check_power_of_two(size: int, field: str) -> None:
    if size & (size - 1):
        raise _invalid(
            field, "queue_size_invalid", f"a queue holds a power of two of requests, not {size}", "use 128, 256 or 512"
        )


def _invalid(field: str, code: str, message: str, hint: str) -> InvalidInputError:
    return InvalidInputError(code, message, hint=hint, field=field)


def _other_board(field: str, message: str) -> UnsupportedError:
    return UnsupportedError("unsupported_by_machine_type", message, hint="use the machine type q35", field=field)

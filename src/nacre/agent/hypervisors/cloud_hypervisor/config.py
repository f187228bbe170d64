"""The configuration of one machine: a launch in, the body of `vm.create` out. Pure; golden tests hold it still.

Called by `driver`. What Cloud Hypervisor cannot do is refused here, with a reason and a way out.
"""

import uuid
from pathlib import Path
from typing import cast

from nacre.agent.hypervisors.cloud_hypervisor import devices, paths
from nacre.agent.hypervisors.cloud_hypervisor.devices import Fields
from nacre.agent.hypervisors.cloud_hypervisor.refusals import unfit, unsupported
from nacre.agent.hypervisors.launch import Launch, MacvtapNic
from nacre.model.hardware import (
    HUGE_PAGES,
    CpuOptions,
    DeviceOptions,
    Graphics,
    HotplugMethod,
    NumaCell,
    WatchdogAction,
)
from nacre.model.ids import VmId
from nacre.model.units import MIB
from nacre.model.vms import MachineType

MACHINES = (MachineType.Q35.value,)
"""It emulates one board, with PCI Express. Of the words that we have for boards this one comes closest."""
HOTPLUG_STEP = 128 * MIB
"""Memory is added in steps of this size."""

_NAMESPACE = uuid.UUID("7ac3d1f2-5a0e-4f6b-9c57-0d1e9b8f6a31")  # the same for every hypervisor
_METHODS = {HotplugMethod.ACPI: "Acpi", HotplugMethod.VIRTIO_MEM: "VirtioMem"}
_CHANGE_DIRECTORY = 'cd "$0" && exec "$@"'


def uuid_of(vm: VmId) -> str:
    """The UUID that the guest's firmware knows a machine by: the same for every life of it."""
    return str(uuid.uuid5(_NAMESPACE, vm))


def command_line(binary: str, run_directory: Path) -> list[str]:
    """Return the command line. The shell only changes to the run directory; the process is Cloud Hypervisor's.

    After the guest has powered off, the process stays until we have seen that it did and tell it to leave.
    """
    options = ["--api-socket", f"path={paths.API_SOCKET}", "--event-monitor", f"path={paths.EVENTS}"]
    options += ["--seccomp", "true", "--no-shutdown"]
    return ["/bin/sh", "-c", _CHANGE_DIRECTORY, str(run_directory), binary, *options]


def build(launch: Launch) -> Fields:
    """Return a `VmConfig` without the NICs that come with descriptors. Raises DriverError, always PERMANENT."""
    _check(launch)
    nics = [devices.nic(nic, cpus=launch.cpus) for nic in launch.nics]
    config: Fields = {
        "cpus": _cpus(launch.cpus, launch.cpu),
        "memory": _memory(launch),
        "payload": _payload(launch),
        "disks": [devices.disk(disk, cpus=launch.cpus) for disk in launch.disks],
        "net": [fields for nic, fields in zip(launch.nics, nics, strict=True) if not isinstance(nic, MacvtapNic)],
        "rng": {"src": launch.devices.rng},
        "serial": devices.serial(launch.devices),
        "console": devices.console(launch.devices),
        "platform": _platform(launch),
    }
    if launch.memory.balloon is not None:
        balloon = launch.memory.balloon
        config["balloon"] = {
            "size": balloon.reclaim_bytes,
            "deflate_on_oom": balloon.deflate_on_oom,
            "free_page_reporting": balloon.free_page_reporting,
        }
    if launch.numa:
        config["numa"] = [_numa_node(number, cell) for number, cell in enumerate(launch.numa)]
    if launch.limit_groups:
        config["rate_limit_groups"] = [
            {"id": group.name, "rate_limiter_config": devices.limits(group.limits)} for group in launch.limit_groups
        ]
    if any(nic.options.iommu for nic in launch.nics):
        config["iommu"] = True
    config |= {"watchdog": True} if launch.devices.watchdog is not None else {}
    config |= {"pvpanic": True} if launch.devices.panic else {}
    config |= {"tpm": {"socket": str(launch.tpm_socket)}} if launch.tpm_socket is not None else {}
    return config


def with_descriptors(launch: Launch) -> list[tuple[MacvtapNic, Fields]]:
    """Return the NICs that are added, with descriptors of their devices, before the machine boots."""
    return [(nic, devices.nic(nic, cpus=launch.cpus)) for nic in launch.nics if isinstance(nic, MacvtapNic)]


def for_restoring(saved: Fields, launch: Launch) -> Fields:
    """Return the configuration of a saved machine, with the devices of `launch` and its name. Raises DriverError.

    Sizes stay as they were saved, for the memory that follows has them. Files are found by their links.
    """
    fresh = build(launch)
    config = dict(saved)
    for kind, what in (("disks", "disks"), ("net", "NICs")):
        old, new = _by_id(saved.get(kind)), _by_id(fresh[kind])
        if list(old) != list(new):
            raise unfit(
                "checkpoint_unfit",
                f"the checkpoint was taken with the {what} {', '.join(old) or 'none'}, "
                f"and the machine has {', '.join(new) or 'none'}",
                "give the machine the same devices in the same order, or start it without the checkpoint",
            )
        config[kind] = [old[name] | new[name] for name in new]
    if with_descriptors(launch):
        raise unsupported("nic_unsupported", "restores no machine with a macvtap", "use a tap device on a bridge")
    platform = cast("Fields", saved.get("platform") or {})
    config["platform"] = platform | {"system_uuid": uuid_of(launch.vm)}
    return config | {"serial": fresh["serial"], "console": fresh["console"], "payload": fresh["payload"]}


def cpu_list(text: str) -> list[int]:
    """Return the numbers in a list as Linux writes it, such as `0-3,8`."""
    found: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found


def _by_id(value: object) -> dict[str, Fields]:
    return {str(each["id"]): each for each in cast("list[Fields]", value or [])}


def _cpus(cpus: int, options: CpuOptions) -> Fields:
    most = options.max or cpus
    fields: Fields = {"boot_vcpus": cpus, "max_vcpus": most}
    if options.topology is not None:
        topology = options.topology
        if topology.cpus != most:
            raise unfit(
                "topology_unfit",
                f"the topology has {topology.cpus} CPUs, and the machine may have {most}",
                "make the product of threads, cores, dies and packages the same",
            )
        fields["topology"] = {
            "threads_per_core": topology.threads,
            "cores_per_die": topology.cores,
            "dies_per_package": topology.dies,
            "packages": topology.packages,
        }
    if options.pins:
        fields["affinity"] = [{"vcpu": pin.cpu, "host_cpus": cpu_list(pin.host_cpus)} for pin in options.pins]
    return fields | ({"kvm_hyperv": True} if options.hyperv else {})


def _memory(launch: Launch) -> Fields:
    options = launch.memory
    shared = options.shared or any(devices.is_served_elsewhere(each) for each in (*launch.disks, *launch.nics))
    if shared and options.mergeable:
        raise unsupported(
            "memory_unfit",
            "merges no pages of memory that is shared with other processes, as that of vhost-user devices is",
            "switch off mergeable, or do without sharing",
        )
    backing: Fields = {"shared": True} if shared else {}
    backing |= {"mergeable": True} if options.mergeable else {}
    backing |= {"prefault": True} if options.prefault else {}
    if options.hugepage_bytes is not None:
        _check_huge_pages(launch, options.hugepage_bytes)
        backing |= {"hugepages": True, "hugepage_size": options.hugepage_bytes}
    if launch.numa:
        zones = [_zone(number, cell) | backing for number, cell in enumerate(launch.numa)]
        return {"size": 0, "zones": zones, "thp": options.thp}
    fields: Fields = {"size": launch.memory_bytes, "thp": options.thp} | backing
    if options.max_bytes is not None and options.max_bytes > launch.memory_bytes:
        fields["hotplug_method"] = _METHODS[options.hotplug]
        fields["hotplug_size"] = options.max_bytes - launch.memory_bytes
    return fields


def _zone(number: int, cell: NumaCell) -> Fields:
    fields: Fields = {"id": f"node{number}", "size": cell.memory_bytes}
    if cell.host_nodes is not None:
        nodes = cpu_list(cell.host_nodes)
        if len(nodes) != 1:
            raise unsupported(
                "numa_unsupported",
                f"takes the memory of a node from one node of the host, not from {cell.host_nodes}",
                "name one node of the host for each of the machine's",
            )
        fields["host_numa_node"] = nodes[0]
    return fields


def _numa_node(number: int, cell: NumaCell) -> Fields:
    return {"guest_numa_id": number, "cpus": cpu_list(cell.cpus), "memory_zones": [f"node{number}"]}


def _payload(launch: Launch) -> Fields:
    if launch.kernel is not None:
        fields: Fields = {"kernel": paths.KERNEL, "cmdline": launch.kernel_args}
        return fields | ({"initramfs": paths.INITRD} if launch.initrd is not None else {})
    if launch.firmware is None:
        raise unsupported(
            "firmware_unsupported",
            "has no BIOS",
            "set the machine's firmware to uefi, give it an image with a kernel, or use the hypervisor qemu",
        )
    if launch.firmware.secure_boot:
        raise unsupported("secure_boot_unsupported", "has no secure boot", "switch it off, or use the hypervisor qemu")
    return {"firmware": paths.FIRMWARE}


def _platform(launch: Launch) -> Fields:
    segments = [each.options.pci_segment for each in (*launch.disks, *launch.nics)]
    fields: Fields = {"system_uuid": uuid_of(launch.vm)}
    return fields | ({"num_pci_segments": max(segments) + 1} if any(segments) else {})


def _check(launch: Launch) -> None:
    paths.check(launch)
    if launch.machine.value not in MACHINES:
        raise unsupported(
            "machine_unsupported",
            f"has no machine type {launch.machine.value}",
            f"use {MACHINES[0]}, or the hypervisor qemu",
        )
    if launch.cpu.model not in {"", "host", "max"}:
        raise unsupported(
            "cpu_model_unsupported",
            f"gives the guest the host's CPU, not a {launch.cpu.model}",
            "leave the model away, or use the hypervisor qemu",
        )
    _check_hotplug(launch)
    _check_devices(launch.devices)
    if launch.devices.tpm and launch.tpm_socket is None:
        raise unfit("tpm_missing", "nothing serves the machine's TPM", "install swtpm on the node")
    balloon = launch.memory.balloon
    if balloon is not None and balloon.reclaim_bytes > launch.memory_bytes:
        raise unfit("balloon_unfit", "the balloon takes more than there is", "reclaim less than the machine has")


def _check_hotplug(launch: Launch) -> None:
    most = launch.memory.max_bytes
    if most is None or most <= launch.memory_bytes:
        return
    if launch.numa:
        raise unsupported(
            "memory_unfit",
            "adds no memory to a machine with several memory nodes",
            "leave the largest size of the memory away, or the nodes",
        )
    if (most - launch.memory_bytes) % HOTPLUG_STEP:
        raise unsupported(
            "memory_unfit",
            f"adds memory in steps of {HOTPLUG_STEP // MIB} MiB",
            "choose a largest size that is a multiple of that above the size at the start",
        )


def _check_devices(options: DeviceOptions) -> None:
    if options.graphics is not Graphics.NONE:
        raise unsupported("graphics_unsupported", "has no screen", "use the console, or the hypervisor qemu")
    if not options.rng:
        raise unsupported(
            "rng_unsupported", "always gives the guest random numbers", "name where they come from, as /dev/urandom"
        )
    if options.watchdog not in {None, WatchdogAction.RESET}:
        raise unsupported(
            "watchdog_unsupported",
            f"resets a machine whose watchdog runs out, and knows no {options.watchdog}",
            "set the watchdog's action to reset, or use the hypervisor qemu",
        )


def _check_huge_pages(launch: Launch, size: int) -> None:
    if size not in HUGE_PAGES:
        raise unfit("hugepages_unfit", f"there are no huge pages of {size} bytes", "use 2 MiB or 1 GiB")
    parts = [cell.memory_bytes for cell in launch.numa] or [launch.memory_bytes]
    if any(part % size for part in parts):
        raise unfit(
            "hugepages_unfit",
            f"the memory is no multiple of the huge pages of {size // MIB} MiB",
            "round the memory, or use smaller pages",
        )

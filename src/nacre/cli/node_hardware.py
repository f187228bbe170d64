"""What a node's host is made of, for people. Used by `node_views`."""

from collections.abc import Iterable

from nacre.model.nodes import Inventory
from nacre.model.units import format_size


def facts(of: Inventory | None) -> list[tuple[str, str]]:
    """Return a line for each kind of thing; what a host has none of is left out."""
    if of is None:
        return []
    threads = f"{of.cpu_cores} cores, {of.cpu_threads} threads"
    disks = (
        f"{disk.name} {format_size(disk.size_bytes)} {disk.model} {disk.wwn}{' rotating' if disk.rotational else ''}"
        for disk in of.disks
    )
    devices = (
        f"{device.address} {device.kind} {device.vendor}:{device.device} {device.driver or 'no driver'}"
        + (f", IOMMU group {device.iommu_group}" if device.iommu_group is not None else "")
        for device in of.devices
    )
    interfaces = (
        f"{nic.name} {'up' if nic.up else 'down'} {nic.mac} {' '.join(nic.addresses)}"
        + (f" {nic.speed_mbps} Mbit/s" if nic.speed_mbps else "")
        for nic in of.nics
    )
    pages = (f"{pages.total} of {format_size(pages.size_bytes)}" for pages in of.huge_pages if pages.total)
    memory = (f"{node.id}: CPUs {node.cpus}, {format_size(node.memory_bytes)}" for node in of.numa)
    return [
        ("processors", f"{of.cpu_model}, {threads}" if of.cpu_model else threads),
        ("memory nodes", "\n".join(memory) if len(of.numa) > 1 else ""),
        ("huge pages", ", ".join(pages)),
        ("disks", _lines(disks)),
        ("devices", _lines(devices)),
        ("interfaces", _lines(interfaces)),
    ]


def _lines(found: Iterable[str]) -> str:
    return "\n".join(" ".join(line.split()) for line in found)

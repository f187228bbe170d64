"""Disks, PCI devices and network interfaces of a host. Called by `inventory`, read from /sys.

Names of disks and interfaces change with the order in which a kernel meets them, so disks go by World Wide Name.
"""

import re
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

import psutil

from nacre.agent.host.files import link_name, names, number, text
from nacre.model.nodes import BlockDevice, HostNic, PciDevice

_SECTOR = 512
_NO_DISK = re.compile(r"(loop|ram|zram|nbd|sr|fd|dm-|md|mtdblock)\d*")
"""Made of files, memory, other disks, or removable."""
_WIDE = re.compile(r"(naa|eui|nvme|uuid)\.\S+")
_PASSED_THROUGH = "vfio-pci"
_PCI_KINDS = {0x03: "gpu", 0x02: "nic", 0x0108: "nvme"}
"""By class, or class and subclass."""
_NIC_NOISE = re.compile(r"(lo|veth|tap|tun|vnet|docker|br-|virbr|ifb|dummy|nacre)")

Addresses = Mapping[str, tuple[str, ...]]


def disks(root: Path) -> tuple[BlockDevice, ...]:
    """Return the disks of this host, by name."""
    links = _by_id(root / "dev/disk/by-id")
    found: list[BlockDevice] = []
    for name in names(root / "sys/block"):
        folder = root / "sys/block" / name
        sectors = number(folder / "size") or 0
        if sectors and not _NO_DISK.match(name):
            found.append(
                BlockDevice(
                    name=name,
                    wwn=links.get(name) or _wide_name(folder),
                    model=" ".join(text(folder / "device/model").split()),
                    size_bytes=sectors * _SECTOR,
                    rotational=number(folder / "queue/rotational") == 1,
                )
            )
    return tuple(found)


def devices(root: Path) -> tuple[PciDevice, ...]:
    """Return what could be passed to a guest: GPUs, NICs, NVMe, and whatever is set aside for that already."""
    folder = root / "sys/bus/pci/devices"
    found: list[PciDevice] = []
    for address in names(folder):
        device = folder / address
        driver = link_name(device / "driver")
        kind = _kind(number(device / "class") or 0)
        if kind == "other" and driver != _PASSED_THROUGH:
            continue
        group = link_name(device / "iommu_group")
        found.append(
            PciDevice(
                address=address,
                kind=kind,
                vendor=text(device / "vendor").removeprefix("0x"),
                device=text(device / "device").removeprefix("0x"),
                driver=driver,
                iommu_group=int(group) if group.isdecimal() else None,
            )
        )
    return tuple(found)


def nics(root: Path, addresses: Addresses) -> tuple[HostNic, ...]:
    """Return the interfaces that lead out of this host: hardware, and bonds and bridges with an address."""
    folder = root / "sys/class/net"
    found: list[HostNic] = []
    for name in names(folder):
        nic = folder / name
        hardware = (nic / "device").exists()
        made = (nic / "bonding").exists() or (nic / "bridge").exists()
        if hardware or (made and addresses.get(name) and not _NIC_NOISE.match(name)):
            speed = number(nic / "speed")
            found.append(
                HostNic(
                    name=name,
                    mac=text(nic / "address"),
                    mtu=number(nic / "mtu") or 0,
                    up=text(nic / "operstate") in {"up", "unknown"},
                    speed_mbps=speed if speed is not None and speed > 0 else None,
                    addresses=addresses.get(name, ()),
                )
            )
    return tuple(found)


def addresses_here() -> Addresses:
    """Return the addresses of this host's interfaces, without those that are good on one wire only."""
    found: dict[str, tuple[str, ...]] = {}
    for name, known in psutil.net_if_addrs().items():
        of_ip = (each.address for each in known if each.family in {socket.AF_INET, socket.AF_INET6})
        found[name] = tuple(sorted(address for address in of_ip if not address.startswith(("fe80:", "169.254."))))
    return found


def reachable_addresses() -> tuple[str, ...]:
    """Return the addresses of this host, those that lead to it from elsewhere first, its loopback last."""
    known = {address for some in addresses_here().values() for address in some}
    return tuple(sorted(known, key=lambda address: (ip_address(address).is_loopback, ":" in address, address)))


def _by_id(folder: Path) -> dict[str, str]:
    """Return the World Wide Name of each disk that udev has linked one for."""
    wide = (name for name in names(folder) if name.startswith("wwn-") and "-part" not in name)
    return {link_name(folder / name): name.removeprefix("wwn-") for name in wide}


def _wide_name(folder: Path) -> str:
    """Return what the kernel knows a disk by: its WWN, else its serial number, which is at least its own."""
    known = text(folder / "wwid") or text(folder / "device/wwid")
    if known.startswith("naa."):
        return "0x" + known.removeprefix("naa.")
    if _WIDE.fullmatch(known):
        return known
    return text(folder / "serial") or text(folder / "device/serial")


def _kind(pci_class: int) -> str:
    """Return what a device is by the upper three bytes of its class: class, subclass, programming interface."""
    return _PCI_KINDS.get(pci_class >> 16) or _PCI_KINDS.get(pci_class >> 8) or "other"

"""What a host is made of, in words."""

from nacre.cli import node_hardware
from nacre.model.nodes import BlockDevice, HostNic, HugePages, Inventory, NumaNode, PciDevice
from nacre.model.units import GIB, MIB, TIB


def test_nothing_is_known_of_old_agents() -> None:
    assert node_hardware.facts(None) == []


def test_everything_there_is_is_named() -> None:
    facts = dict(
        node_hardware.facts(
            Inventory(
                cpu_model="Xeon",
                cpu_cores=8,
                cpu_threads=16,
                numa=(
                    NumaNode(id=0, cpus="0-7", memory_bytes=32 * GIB),
                    NumaNode(id=1, cpus="8-15", memory_bytes=32 * GIB),
                ),
                huge_pages=(HugePages(size_bytes=2 * MIB, total=512), HugePages(size_bytes=GIB, total=0)),
                disks=(BlockDevice(name="sda", wwn="0x5002538b73a1b2c0", size_bytes=TIB, rotational=True),),
                devices=(
                    PciDevice(
                        address="0000:31:00.0",
                        kind="gpu",
                        vendor="10de",
                        device="20b5",
                        driver="vfio-pci",
                        iommu_group=17,
                    ),
                ),
                nics=(HostNic(name="eno1", mac="aa:bb", up=True, speed_mbps=1000, addresses=("10.0.0.1",)),),
            )
        )
    )
    assert facts == {
        "processors": "Xeon, 8 cores, 16 threads",
        "memory nodes": "0: CPUs 0-7, 32GiB\n1: CPUs 8-15, 32GiB",
        "huge pages": "512 of 2MiB",
        "disks": "sda 1TiB 0x5002538b73a1b2c0 rotating",
        "devices": "0000:31:00.0 gpu 10de:20b5 vfio-pci, IOMMU group 17",
        "interfaces": "eno1 up aa:bb 10.0.0.1 1000 Mbit/s",
    }

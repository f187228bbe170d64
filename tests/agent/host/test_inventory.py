"""What a host is made of, read from copies of several machines and from this one."""

import platform
import time
from pathlib import Path

import pytest

from nacre.agent.host import inventory
from nacre.agent.host.inventory import REREAD_S, HostInventory
from nacre.lib.clock import ManualClock
from nacre.model.nodes import BlockDevice, HostNic, HugePages, Inventory, NumaNode, PciDevice
from nacre.model.units import GIB, MIB
from support.hosttree import plant, write


def read(machine: str, root: Path, **addresses: tuple[str, ...]) -> Inventory:
    return inventory.read(plant(machine, root), addresses)


def test_a_server_with_two_memory_nodes(tmp_path):
    found = read("server", tmp_path, bond0=("10.0.2.7",), docker0=("172.17.0.1",))
    assert (found.cpu_model, found.cpu_cores, found.cpu_threads) == (
        "Intel(R) Xeon(R) Silver 4309Y CPU @ 2.80GHz",
        4,
        8,
    )
    assert found.numa == (
        NumaNode(id=0, cpus="0-1,4-5", memory_bytes=65536000 << 10),
        NumaNode(id=1, cpus="2-3,6-7", memory_bytes=66057216 << 10),
    )
    assert found.huge_pages == (HugePages(size_bytes=2 * MIB, total=512), HugePages(size_bytes=GIB, total=4))


def test_disks_go_by_their_world_wide_name_and_what_is_no_disk_is_left_out(tmp_path):
    assert read("server", tmp_path).disks == (
        BlockDevice(
            name="nvme0n1",
            wwn="eui.0025385b21403f6a",
            model="SAMSUNG MZQLB960HAJR-00007",
            size_bytes=1875385008 * 512,
        ),
        BlockDevice(name="sda", wwn="0x5002538b73a1b2c0", model="MZILT1T9HBJR0D3", size_bytes=3750748848 * 512),
        BlockDevice(
            name="sdb", wwn="0x5000c500d7aabb01", model="ST12000NM004J", size_bytes=23437770752 * 512, rotational=True
        ),
    )


def test_a_disk_is_known_without_udev_too(tmp_path):
    root = plant("server", tmp_path)
    for link in (root / "dev/disk/by-id").iterdir():
        link.unlink()
    assert [disk.wwn for disk in inventory.read(root, {}).disks] == ["eui.0025385b21403f6a", "0x5002538b73a1b2c0", ""]


def test_devices_that_a_guest_could_have(tmp_path):
    found = {device.address: device for device in read("server", tmp_path).devices}
    assert found["0000:31:00.0"] == PciDevice(
        address="0000:31:00.0", kind="gpu", vendor="10de", device="20b5", driver="vfio-pci", iommu_group=17
    )
    assert {address: device.kind for address, device in found.items()} == {
        "0000:31:00.0": "gpu",
        "0000:31:00.1": "other",  # of the same card, set aside with it
        "0000:4b:00.0": "nic",
        "0000:65:00.0": "nvme",
    }
    assert found["0000:4b:00.0"].iommu_group == 31


def test_interfaces_that_lead_out_and_no_others(tmp_path):
    found = read("server", tmp_path, bond0=("10.0.2.7",), docker0=("172.17.0.1",), lo=("127.0.0.1",))
    assert found.nics == (
        HostNic(name="bond0", mac="b8:ce:f6:01:02:03", mtu=9000, up=True, speed_mbps=25000, addresses=("10.0.2.7",)),
        HostNic(name="eno1", mac="b8:ce:f6:01:02:04", mtu=1500),
        HostNic(name="enp75s0f0", mac="b8:ce:f6:01:02:03", mtu=9000, up=True, speed_mbps=25000),
    )


def test_a_laptop(tmp_path):
    found = read("laptop", tmp_path)
    assert (found.cpu_model, found.cpu_cores, found.cpu_threads) == ("AMD Ryzen 5 PRO 5650U with Radeon Graphics", 3, 6)
    assert [(disk.name, disk.wwn[:10]) for disk in found.disks] == [("nvme0n1", "nvme.1c5c-")]
    assert [(d.kind, d.driver, d.iommu_group) for d in found.devices] == [
        ("nic", "iwlwifi", None),
        ("gpu", "amdgpu", None),
    ]
    assert [(nic.name, nic.up, nic.speed_mbps) for nic in found.nics] == [("wlp3s0", True, None)]
    assert found.huge_pages == (HugePages(size_bytes=2 * MIB, total=0),)


def test_a_guest_of_a_cloud_has_a_serial_number_for_a_name_and_no_memory_nodes(tmp_path):
    found = read("virtual", tmp_path)
    assert [(disk.name, disk.wwn) for disk in found.disks] == [("vda", "vol0a1b2c3d4e5f6")]
    assert found.numa == ()
    assert [(nic.name, nic.speed_mbps) for nic in found.nics] == [("eth0", None)]


def test_an_arm_board_says_its_model_and_cores_elsewhere(tmp_path):
    found = read("arm", tmp_path)
    assert (found.cpu_model, found.cpu_cores, found.cpu_threads) == ("Raspberry Pi 5 Model B Rev 1.0", 2, 2)
    assert [(disk.name, disk.wwn) for disk in found.disks] == [("mmcblk0", "0x1c2f3a4b")]


def test_a_host_without_proc_and_sys_still_counts_its_processors(tmp_path):
    found = inventory.read(tmp_path, {})
    assert found.cpu_threads >= 1
    assert (found.numa, found.huge_pages, found.disks, found.devices, found.nics) == ((), (), (), (), ())


def test_an_inventory_is_read_again_slowly(tmp_path):
    root, clock = plant("virtual", tmp_path), ManualClock()
    host = HostInventory(clock, root)
    first = host.current()
    write(root, "sys/block/vdb/size", "2048\n")
    clock.advance(REREAD_S - 1)
    assert host.current() is first
    clock.advance(1)
    assert [disk.name for disk in host.current().disks] == ["vda", "vdb"]


@pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc and /sys")
def test_this_host_is_read_quickly_and_is_the_same_twice():
    began = time.perf_counter()
    first, second = inventory.read(Path("/")), inventory.read(Path("/"))
    assert time.perf_counter() - began < 5
    assert first == second
    assert first.cpu_threads >= 1

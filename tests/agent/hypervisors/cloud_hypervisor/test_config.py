"""The configuration of a machine, field by field. A change here changes every guest: mean it."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.cloud_hypervisor import config, paths
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import (
    DiskFile,
    FirmwareFiles,
    Launch,
    MacvtapNic,
    RbdDisk,
    TapNic,
    UserNic,
    VhostUserDisk,
    VhostUserNic,
)
from nacre.model.convergence import FailureClass
from nacre.model.hardware import (
    Balloon,
    ConsoleMode,
    CpuOptions,
    CpuPin,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Graphics,
    HotplugMethod,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.ids import RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType

LAUNCH = Launch(
    vm=VmId("vm-01m7ysnyghpha2pa88yjx222cp"),
    run=RunId("run-01m7ysnyghpha2pa88yjx222cp"),
    name="web-1",
    machine=MachineType.Q35,
    cpus=2,
    memory_bytes=512 * MIB,
    directory=Path("/data/vms/vm-1"),
    run_directory=Path("/run/nacre/x"),
    lock_fd=9,
    kernel=Path("/cache/kernel"),
    initrd=Path("/cache/initrd"),
    kernel_args="console=ttyS0 quiet",
)
ROOT = DiskFile(id="root", path=Path("/data/vms/vm-1/root.qcow2"), format="qcow2")
TAP = TapNic(id="nic0", mac="52:4e:00:00:00:01", device="nacre-tap0")
LIMITS = RateLimits(bandwidth=TokenBucket(size=1000, burst=500), operations=TokenBucket(size=7, refill_ms=100))
SLOW = RateLimits(bandwidth=TokenBucket(size=1))
FIRMWARE = FirmwareFiles(code=Path("/usr/share/CLOUDHV.fd"))


def build(**changes) -> dict:
    return config.build(replace(LAUNCH, **changes))


def disk(given=ROOT, **options) -> dict:
    return build(disks=(replace(given, options=DiskOptions(**options)),))["disks"][0]


def nic(given=TAP, **options) -> dict:
    return build(nics=(replace(given, options=NicOptions(**options)),))["net"][0]


def test_a_machine_with_a_kernel_a_disk_and_a_tap() -> None:
    assert build(disks=(ROOT,), nics=(TAP,)) == {
        "cpus": {"boot_vcpus": 2, "max_vcpus": 2},
        "memory": {"size": 512 * MIB, "thp": True},
        "payload": {"kernel": "kernel", "cmdline": "console=ttyS0 quiet", "initramfs": "initrd"},
        "disks": [
            {
                "id": "root",
                "path": "disk-root",
                "image_type": "Qcow2",
                "backing_files": True,
                "serial": "root",
                "readonly": False,
                "num_queues": 1,
                "queue_size": 128,
            }
        ],
        "net": [
            {
                "id": "nic0",
                "mac": "52:4e:00:00:00:01",
                "tap": "nacre-tap0",
                "num_queues": 2,
                "queue_size": 256,
                "offload_tso": True,
                "offload_ufo": True,
                "offload_csum": True,
            }
        ],
        "rng": {"src": "/dev/urandom"},
        "serial": {"mode": "Socket", "socket": "serial.sock"},
        "console": {"mode": "Off"},
        "platform": {"system_uuid": "4b689b41-e35a-5cdb-a0ca-a4a5e48077b1"},
    }


def test_the_command_line_has_nothing_of_the_machine_but_where_it_runs() -> None:
    assert config.command_line("/usr/bin/ch", Path("/run/nacre/x")) == [
        *("/bin/sh", "-c", 'cd "$0" && exec "$@"', "/run/nacre/x", "/usr/bin/ch"),
        *("--api-socket", "path=api.sock", "--event-monitor", "path=events.json", "--seccomp", "true", "--no-shutdown"),
    ]


def test_files_are_known_by_links() -> None:
    launch = replace(LAUNCH, disks=(ROOT, VhostUserDisk(id="far", socket=Path("/run/far.sock"))))
    assert paths.links(launch) == {
        "disk-root": Path("/data/vms/vm-1/root.qcow2"),
        "kernel": Path("/cache/kernel"),
        "initrd": Path("/cache/initrd"),
    }
    assert paths.links(replace(LAUNCH, kernel=None, initrd=None, firmware=FIRMWARE)) == {"firmware": FIRMWARE.code}
    with_log = replace(LAUNCH, devices=DeviceOptions(console=ConsoleMode.FILE))
    assert paths.links(with_log)["virtio-console.log"] == Path("/data/vms/vm-1/virtio-console.log")
    assert all(paths.is_ours(name) for name in [*paths.links(launch), "api.sock", "api.sock.lock", "console.sock.new"])
    assert not paths.is_ours("lock")


def test_a_machine_with_firmware() -> None:
    assert build(kernel=None, initrd=None, firmware=FIRMWARE)["payload"] == {"firmware": "firmware"}
    assert "initramfs" not in build(initrd=None)["payload"]


def test_cpus() -> None:
    topology = CpuTopology(threads=2, cores=2, packages=2)
    pins = (CpuPin(cpu=0, host_cpus="0-2,5"), CpuPin(cpu=1, host_cpus="7"))
    assert build(cpu=CpuOptions(max=8, topology=topology, pins=pins, hyperv=True))["cpus"] == {
        "boot_vcpus": 2,
        "max_vcpus": 8,
        "topology": {"threads_per_core": 2, "cores_per_die": 2, "dies_per_package": 1, "packages": 2},
        "affinity": [{"vcpu": 0, "host_cpus": [0, 1, 2, 5]}, {"vcpu": 1, "host_cpus": [7]}],
        "kvm_hyperv": True,
    }


def test_memory() -> None:
    options = MemoryOptions(
        max_bytes=2 * GIB,
        hotplug=HotplugMethod.VIRTIO_MEM,
        hugepage_bytes=2 * MIB,
        shared=True,
        prefault=True,
        thp=False,
    )
    assert build(memory=options)["memory"] == {
        "size": 512 * MIB,
        "hotplug_method": "VirtioMem",
        "hotplug_size": 1536 * MIB,
        "hugepages": True,
        "hugepage_size": 2 * MIB,
        "shared": True,
        "prefault": True,
        "thp": False,
    }
    assert build(memory=MemoryOptions(max_bytes=GIB))["memory"]["hotplug_method"] == "Acpi"
    assert "hotplug_size" not in build(memory=MemoryOptions(max_bytes=512 * MIB))["memory"]
    assert build(memory=MemoryOptions(mergeable=True))["memory"]["mergeable"] is True


def test_memory_nodes() -> None:
    cells = (NumaCell(cpus="0", memory_bytes=256 * MIB, host_nodes="1"), NumaCell(cpus="1", memory_bytes=256 * MIB))
    made = build(numa=cells, memory=MemoryOptions(shared=True))
    assert made["memory"] == {
        "size": 0,
        "thp": True,
        "zones": [
            {"id": "node0", "size": 256 * MIB, "host_numa_node": 1, "shared": True},
            {"id": "node1", "size": 256 * MIB, "shared": True},
        ],
    }
    assert made["numa"] == [
        {"guest_numa_id": 0, "cpus": [0], "memory_zones": ["node0"]},
        {"guest_numa_id": 1, "cpus": [1], "memory_zones": ["node1"]},
    ]


def test_a_balloon_counts_what_it_takes() -> None:
    balloon = Balloon(reclaim_bytes=64 * MIB, deflate_on_oom=False, free_page_reporting=True)
    assert build(memory=MemoryOptions(balloon=balloon))["balloon"] == {
        "size": 64 * MIB,
        "deflate_on_oom": False,
        "free_page_reporting": True,
    }


def test_disks() -> None:
    raw = DiskFile(id="data", path=Path("/dev/vg/data"), format="raw")
    assert disk(raw, direct=True, queues=2, queue_size=256, serial="S1", pci_segment=2, limits=LIMITS) == {
        "id": "data",
        "path": "disk-data",
        "image_type": "Raw",
        "serial": "S1",
        "readonly": False,
        "direct": True,
        "num_queues": 2,
        "queue_size": 256,
        "pci_segment": 2,
        "rate_limiter_config": {
            "bandwidth": {"size": 1000, "refill_time": 1000, "one_time_burst": 500},
            "ops": {"size": 7, "refill_time": 100},
        },
    }
    assert disk(replace(raw, cdrom=True))["readonly"] is True
    assert disk(raw, read_only=True)["readonly"] is True
    assert disk(replace(raw, id="x" * 30))["serial"] == "x" * 20


def test_disks_that_share_limits() -> None:
    group = LimitGroup(name="slow", limits=SLOW)
    made = build(disks=(replace(ROOT, options=DiskOptions(limit_group="slow")),), limit_groups=(group,))
    assert made["rate_limit_groups"] == [
        {"id": "slow", "rate_limiter_config": {"bandwidth": {"size": 1, "refill_time": 1000}}}
    ]
    assert made["disks"][0]["rate_limit_group"] == "slow"


def test_nics() -> None:
    assert nic(
        mtu=9000,
        queues=2,
        queue_size=512,
        tso=False,
        host_mac="52:4e:00:00:00:02",
        iommu=True,
        receive_limits=SLOW,
        send_limits=SLOW,
    ) == {
        "id": "nic0",
        "mac": "52:4e:00:00:00:01",
        "host_mac": "52:4e:00:00:00:02",
        "tap": "nacre-tap0",
        "mtu": 9000,
        "num_queues": 4,
        "queue_size": 512,
        "iommu": True,
        "offload_tso": False,
        "offload_ufo": True,
        "offload_csum": True,
        "rate_limiter_config": {"bandwidth": {"size": 1, "refill_time": 1000}},
    }
    assert build(nics=(replace(TAP, options=NicOptions(iommu=True)),))["iommu"] is True
    without = nic(checksum=False)
    assert (without["offload_tso"], without["offload_ufo"], without["offload_csum"]) == (False, False, False)


def test_devices_that_others_serve_share_the_memory() -> None:
    made = build(
        disks=(VhostUserDisk(id="far", socket=Path("/run/far.sock")),),
        nics=(VhostUserNic(id="nic0", mac="52:4e:00:00:00:01", socket=Path("/run/net.sock"), server=True),),
    )
    assert made["memory"]["shared"] is True
    assert made["disks"] == [
        {"id": "far", "num_queues": 1, "queue_size": 128, "vhost_user": True, "vhost_socket": "/run/far.sock"}
    ]
    assert made["net"][0]["vhost_user"] is True
    assert made["net"][0]["vhost_mode"] == "Server"
    assert made["net"][0]["vhost_socket"] == "/run/net.sock"


def test_a_macvtap_comes_with_descriptors_after_the_rest() -> None:
    macvtap = MacvtapNic(id="nic1", mac="52:4e:00:00:00:02", device=Path("/dev/tap7"))
    launch = replace(LAUNCH, nics=(TAP, macvtap))
    assert [each["id"] for each in config.build(launch)["net"]] == ["nic0"]
    [(given, fields)] = config.with_descriptors(launch)
    assert given is macvtap
    assert fields["id"] == "nic1"
    assert "tap" not in fields


def test_consoles_and_small_devices() -> None:
    options = DeviceOptions(
        serial=ConsoleMode.PTY,
        console=ConsoleMode.FILE,
        rng="/dev/hwrng",
        watchdog=WatchdogAction.RESET,
        tpm=True,
        panic=True,
    )
    made = build(devices=options, tpm_socket=Path("/run/tpm.sock"))
    assert made["serial"] == {"mode": "Pty"}
    assert made["console"] == {"mode": "File", "file": "virtio-console.log"}
    assert made["rng"] == {"src": "/dev/hwrng"}
    assert made["watchdog"] is True
    assert made["pvpanic"] is True
    assert made["tpm"] == {"socket": "/run/tpm.sock"}
    assert build(devices=DeviceOptions(serial=ConsoleMode.FILE))["serial"]["mode"] == "Socket"
    assert build(devices=DeviceOptions(serial=ConsoleMode.OFF))["serial"] == {"mode": "Off"}
    assert build(devices=DeviceOptions(serial=ConsoleMode.NULL))["serial"] == {"mode": "Null"}


def test_segments_are_counted() -> None:
    far = replace(ROOT, options=DiskOptions(pci_segment=3))
    assert build(disks=(far,))["platform"]["num_pci_segments"] == 4


REFUSED = {
    "machine_unsupported": {"machine": MachineType.MICROVM},
    "firmware_unsupported": {"kernel": None},
    "secure_boot_unsupported": {"kernel": None, "firmware": replace(FIRMWARE, secure_boot=True)},
    "cpu_model_unsupported": {"cpu": CpuOptions(model="Skylake-Server")},
    "topology_unfit": {"cpu": CpuOptions(topology=CpuTopology(cores=3))},
    "graphics_unsupported": {"devices": DeviceOptions(graphics=Graphics.VNC)},
    "rng_unsupported": {"devices": DeviceOptions(rng="")},
    "watchdog_unsupported": {"devices": DeviceOptions(watchdog=WatchdogAction.POWEROFF)},
    "console_unsupported": {"devices": DeviceOptions(console=ConsoleMode.SOCKET)},
    "tpm_missing": {"devices": DeviceOptions(tpm=True)},
    "balloon_unfit": {"memory": MemoryOptions(balloon=Balloon(reclaim_bytes=GIB))},
    "nic_unsupported": {"nics": (UserNic(id="nic0", mac="52:4e:00:00:00:01"),)},
    "mtu_unsupported": {"nics": (replace(TAP, options=NicOptions(mtu=576)),)},
    "numa_unsupported": {"numa": (NumaCell(cpus="0-1", memory_bytes=512 * MIB, host_nodes="0-1"),)},
    "limits_unfit": {"disks": (replace(ROOT, options=DiskOptions(limits=SLOW, limit_group="x")),)},
    "device_name_unfit": {"disks": (replace(ROOT, id="__root"),)},
}
REFUSED_TOO = [
    ("memory_unfit", {"memory": MemoryOptions(max_bytes=513 * MIB)}),
    ("memory_unfit", {"memory": MemoryOptions(shared=True, mergeable=True)}),
    (
        "memory_unfit",
        {"memory": MemoryOptions(max_bytes=GIB), "numa": (NumaCell(cpus="0-1", memory_bytes=512 * MIB),)},
    ),
    ("hugepages_unfit", {"memory": MemoryOptions(hugepage_bytes=GIB)}),
    ("hugepages_unfit", {"memory": MemoryOptions(hugepage_bytes=4096)}),
    ("disk_unsupported", {"disks": (RbdDisk(id="r", pool="p", image="i", configuration=Path("/c")),)}),
    ("disk_unsupported", {"disks": (replace(ROOT, format="vmdk"),)}),
    ("queues_unfit", {"disks": (replace(ROOT, options=DiskOptions(queues=3)),)}),
    ("queues_unfit", {"nics": (replace(TAP, options=NicOptions(queues=3)),)}),
    ("queue_size_unfit", {"disks": (replace(ROOT, options=DiskOptions(queue_size=100)),)}),
    ("queue_size_unfit", {"disks": (replace(ROOT, options=DiskOptions(queue_size=2)),)}),
    ("queue_size_unfit", {"nics": (replace(TAP, options=NicOptions(queue_size=100)),)}),
    ("limits_unsupported", {"nics": (replace(TAP, options=NicOptions(send_limits=SLOW)),)}),
    ("limits_unsupported", {"disks": (VhostUserDisk(id="d", socket=Path("/s"), options=DiskOptions(limits=SLOW)),)}),
]


@pytest.mark.parametrize(("code", "changes"), [*REFUSED.items(), *REFUSED_TOO])
def test_what_cannot_be_is_refused_for_good_with_a_way_out(code, changes) -> None:
    with pytest.raises(DriverError) as caught:
        build(**changes)
    assert caught.value.code == code
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert caught.value.hint


def test_sockets_have_short_paths() -> None:
    with pytest.raises(DriverError) as caught:
        build(run_directory=Path("/run/" + "x" * 100))
    assert caught.value.code == "path_too_long"
    assert caught.value.failure_class is FailureClass.BLOCKED


def test_a_saved_machine_gets_the_devices_of_its_new_life() -> None:
    saved = build(disks=(ROOT,), nics=(TAP,)) | {"watchdog": False, "memory": {"size": 1, "hotplugged_size": 2}}
    other = replace(
        LAUNCH,
        vm=VmId("vm-01m7ysnyghpha2pa88yjx222cq"),
        disks=(ROOT,),
        nics=(replace(TAP, device="another-tap"),),
    )
    made = config.for_restoring(saved, other)
    assert made["memory"] == {"size": 1, "hotplugged_size": 2}
    assert made["net"][0]["tap"] == "another-tap"
    assert made["platform"]["system_uuid"] == config.uuid_of(other.vm)
    assert made["platform"]["system_uuid"] != config.uuid_of(LAUNCH.vm)
    for wrong in (replace(other, disks=()), replace(other, nics=(replace(TAP, id="nic9"),))):
        with pytest.raises(DriverError) as caught:
            config.for_restoring(saved, wrong)
        assert caught.value.code == "checkpoint_unfit"


def test_lists_of_cpus() -> None:
    assert config.cpu_list("0-3,8") == [0, 1, 2, 3, 8]
    assert config.cpu_list("7") == [7]

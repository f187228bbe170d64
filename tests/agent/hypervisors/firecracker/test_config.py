"""What Firecracker is told about a machine, word for word."""

from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import config
from nacre.agent.hypervisors.firecracker.config import Placed, Request, build
from nacre.agent.hypervisors.launch import VhostUserDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import (
    Balloon,
    ConsoleMode,
    CpuOptions,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    HotplugMethod,
    MemoryOptions,
    NicOptions,
    RateLimits,
    TokenBucket,
)
from nacre.model.units import MIB
from support.vmm import swagger
from support.vmm.launches import disk, launch, nic

NEWEST = (1, 17, 0)
OLD = (1, 7, 0)
KEYS = "reboot=k panic=1 i8042.noaux i8042.nomux i8042.dumbkbd"
LIMITS = RateLimits(bandwidth=TokenBucket(size=1 << 20, refill_ms=500, burst=7), operations=TokenBucket(size=100))
LIMITED = {
    "bandwidth": {"size": 1 << 20, "refill_time": 500, "one_time_burst": 7},
    "ops": {"size": 100, "refill_time": 1000},
}
EVERYTHING = launch(
    initrd=Path("/images/initrd"),
    kernel_args="quiet reboot=t",
    cpu=CpuOptions(topology=CpuTopology(threads=2, cores=1), model="T2"),
    memory=MemoryOptions(
        max_bytes=512 * MIB,
        hotplug=HotplugMethod.VIRTIO_MEM,
        balloon=Balloon(reclaim_bytes=64 * MIB, deflate_on_oom=False, free_page_reporting=True),
    ),
    disks=(
        disk(options=DiskOptions(limits=LIMITS)),
        disk("seed", read_only=True, cdrom=True),
        VhostUserDisk(id="far-1", socket=Path("/run/far.sock")),
    ),
    nics=(nic(options=NicOptions(mtu=1400, receive_limits=LIMITS, send_limits=LIMITS)),),
)


def told(machine, release=NEWEST) -> dict[str, dict]:
    return {each.path: dict(each.body) for each in build(machine, release=release)}


def test_a_small_machine():
    assert build(launch(), release=NEWEST) == [
        Request(
            "PUT",
            "/machine-config",
            {"vcpu_count": 2, "mem_size_mib": 256, "smt": False, "huge_pages": "Transparent"},
        ),
        Request("PUT", "/boot-source", {"kernel_image_path": "kernel", "boot_args": f"{KEYS} console=ttyS0"}),
        Request("PUT", "/entropy", {}),
    ]


def test_a_machine_with_everything():
    assert build(EVERYTHING, release=NEWEST) == [
        Request(
            "PUT",
            "/machine-config",
            {"vcpu_count": 2, "mem_size_mib": 256, "smt": True, "cpu_template": "T2", "huge_pages": "Transparent"},
        ),
        Request(
            "PUT",
            "/boot-source",
            {
                "kernel_image_path": "kernel",
                "boot_args": "quiet reboot=t panic=1 i8042.noaux i8042.nomux i8042.dumbkbd console=ttyS0",
                "initrd_path": "initrd",
            },
        ),
        Request(
            "PUT",
            "/drives/root",
            {
                "drive_id": "root",
                "is_root_device": False,
                "path_on_host": "disks/root",
                "is_read_only": False,
                "cache_type": "Writeback",
                "rate_limiter": LIMITED,
            },
        ),
        Request(
            "PUT",
            "/drives/seed",
            {
                "drive_id": "seed",
                "is_root_device": False,
                "path_on_host": "disks/seed",
                "is_read_only": True,
                "cache_type": "Writeback",
            },
        ),
        Request("PUT", "/drives/far_2d1", {"drive_id": "far_2d1", "is_root_device": False, "socket": "disks/far_2d1"}),
        Request(
            "PUT",
            "/network-interfaces/nic_2d0",
            {
                "iface_id": "nic_2d0",
                "host_dev_name": "tap0",
                "guest_mac": "52:4e:00:00:00:01",
                "mtu": 1400,
                "rx_rate_limiter": LIMITED,
                "tx_rate_limiter": LIMITED,
            },
        ),
        Request(
            "PUT",
            "/balloon",
            {"amount_mib": 64, "deflate_on_oom": False, "stats_polling_interval_s": 5, "free_page_reporting": True},
        ),
        Request("PUT", "/hotplug/memory", {"total_size_mib": 256, "slot_size_mib": 128, "block_size_mib": 2}),
        Request("PUT", "/entropy", {}),
    ]


def test_an_older_release_is_told_nothing_that_it_does_not_know():
    assert "huge_pages" not in told(launch(), (1, 6, 0))["/machine-config"]
    assert told(launch(), OLD)["/machine-config"]["huge_pages"] == "None"
    balloon = launch(memory=MemoryOptions(balloon=Balloon()))
    assert "free_page_reporting" not in told(balloon, (1, 13, 0))["/balloon"]


@pytest.mark.parametrize(
    ("memory", "size", "pages"),
    [
        (MemoryOptions(), 256, "Transparent"),
        (MemoryOptions(), 255, "None"),
        (MemoryOptions(thp=False), 256, "None"),
        (MemoryOptions(hugepage_bytes=2 * MIB), 256, "2M"),
    ],
)
def test_pages(memory, size, pages):
    machine = launch(memory=memory, memory_bytes=size * MIB)
    assert told(machine)["/machine-config"]["huge_pages"] == pages


@pytest.mark.parametrize(
    ("args", "initrd", "root"),
    [("", None, "root"), ("root=/dev/vda1", None, None), ("", Path("/i"), None), ("noroot=1", None, "root")],
)
def test_the_first_disk_is_the_root_unless_the_guest_knows_better(args, initrd, root):
    machine = launch(kernel_args=args, initrd=initrd, disks=(disk("seed", cdrom=True), disk(), disk("more")))
    assert config.root_disk(machine) == root
    assert [body["is_root_device"] for path, body in told(machine).items() if path.startswith("/drives")] == [
        False,
        root == "root",
        False,
    ]


def test_a_machine_without_a_console_has_no_port():
    machine = launch(devices=DeviceOptions(serial=ConsoleMode.OFF, rng=""))
    assert told(machine)["/boot-source"]["boot_args"] == f"{KEYS} 8250.nr_uarts=0"
    assert "/entropy" not in told(machine)


def test_arguments_that_are_too_many_are_refused():
    with pytest.raises(DriverError) as caught:
        build(launch(kernel_args="x" * 2000), release=NEWEST)
    assert caught.value.code == "kernel_arguments_too_long"
    assert caught.value.failure_class is FailureClass.PERMANENT


def test_every_path_is_one_of_the_files_that_are_put_in_place():
    placed = config.placed(EVERYTHING)
    assert placed == [
        Placed("kernel", Path("/images/vmlinux")),
        Placed("initrd", Path("/images/initrd")),
        Placed("disks/root", Path("/disks/root"), own=True),
        Placed("disks/seed", Path("/disks/seed"), own=True),
        Placed("disks/far_2d1", Path("/run/far.sock"), own=True),
    ]
    named = {
        str(value)
        for body in told(EVERYTHING).values()
        for key, value in body.items()
        if key in {"kernel_image_path", "initrd_path", "path_on_host", "socket"}
    }
    assert named == {each.name for each in placed}


needs_document = pytest.mark.skipif(swagger.document() is None, reason="Firecracker's API document is not here")


@needs_document
@pytest.mark.parametrize("machine", [launch(), EVERYTHING])
def test_the_official_document_knows_all_of_it(machine):
    for each in build(machine, release=NEWEST):
        swagger.check(each.method, each.path, each.body)


def allowed(request: Request, body: dict) -> bool:
    try:
        swagger.check(request.method, request.path, body)
    except swagger.StrayError:
        return False
    return True


@needs_document
def test_the_official_document_would_have_told_of_any_mistake():
    tried = 0
    for each in build(EVERYTHING, release=NEWEST):
        for what, body in swagger.mutants(dict(each.body)):
            assert not allowed(each, body), f"{each.path}: nobody saw {what}"
            tried += 1
        assert not allowed(Request("DELETE", each.path, {}), {})
        assert not allowed(Request(each.method, each.path + "s/s/s", {}), dict(each.body))
    assert tried > 60


@needs_document
@pytest.mark.parametrize("path", ["/machine-config", "/drives/root", "/network-interfaces/nic_2d0", "/balloon"])
def test_the_official_document_misses_what_must_be_there(path):
    request = next(each for each in build(EVERYTHING, release=NEWEST) if each.path == path)
    required = {
        "/machine-config": ("vcpu_count", "mem_size_mib"),
        "/drives/root": ("drive_id", "is_root_device"),
        "/network-interfaces/nic_2d0": ("iface_id", "host_dev_name"),
        "/balloon": ("amount_mib", "deflate_on_oom"),
    }[path]
    for name in required:
        body = {key: value for key, value in request.body.items() if key != name}
        with pytest.raises(swagger.StrayError, match="required"):
            swagger.check(request.method, request.path, body)


USED = {
    *("GET /", "GET /vm/config", "GET /balloon/statistics", "GET /hotplug/memory", "PUT /actions", "PUT /balloon"),
    *("PATCH /balloon", "PUT /boot-source", "PUT /drives/{drive_id}", "PATCH /drives/{drive_id}"),
    *("PUT /machine-config", "PUT /entropy", "PUT /hotplug/memory", "PATCH /hotplug/memory"),
    *("PUT /network-interfaces/{iface_id}", "PATCH /network-interfaces/{iface_id}"),
    *("PUT /snapshot/create", "PUT /snapshot/load", "PATCH /vm"),
}
NOT_USED = {
    "GET /version": "the description says it too",
    "GET /machine-config": "it is in the whole configuration",
    "PATCH /machine-config": "it is sent once",
    "GET /balloon": "it is in the whole configuration",
    "PATCH /balloon/statistics": "their interval stays as it is",
    "PATCH /balloon/hinting/start": "free pages are reported, not hinted at",
    "GET /balloon/hinting/status": "free pages are reported, not hinted at",
    "PATCH /balloon/hinting/stop": "free pages are reported, not hinted at",
    "PUT /cpu-config": "templates of one's own are not offered",
    "PUT /logger": "said on the command line",
    "PUT /metrics": "said on the command line",
    "PUT /serial": "a port that leads to a file takes no input",
    "PUT /mmds": "guests are told about themselves by a disk",
    "PATCH /mmds": "guests are told about themselves by a disk",
    "GET /mmds": "guests are told about themselves by a disk",
    "PUT /mmds/config": "guests are told about themselves by a disk",
    "PUT /pmem/{id}": "disks are block devices",
    "PATCH /pmem/{id}": "disks are block devices",
    "PUT /vsock": "guests have no channel yet",
}


@needs_document
def test_every_call_is_used_or_left_alone_for_a_reason():
    assert set(swagger.operations()) == USED | NOT_USED.keys()
    assert not USED & NOT_USED.keys()
    source = "\n".join(path.read_text() for path in Path(config.__file__).parent.glob("*.py"))
    named = {path.split("{")[0].rstrip("/") for _, _, path in (each.partition(" ") for each in USED)} - {""}
    assert [path for path in named if f'"{path}' not in source and f'"{path.lstrip("/")}"' not in source] == []
    left = {path.split("{")[0].rstrip("/") for _, _, path in (each.partition(" ") for each in NOT_USED)} - named
    assert [path for path in left if f'"{path}' in source] == []

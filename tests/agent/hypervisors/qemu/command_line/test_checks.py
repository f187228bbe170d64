"""What QEMU or a board cannot do is refused before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import (
    DiskFile,
    FirmwareFiles,
    Launch,
    MacvtapNic,
    TapNic,
    UserNic,
    VhostUserDisk,
    VhostUserNic,
)
from nacre.agent.hypervisors.qemu.command_line import Surroundings, build
from nacre.model.convergence import FailureClass
from nacre.model.hardware import (
    CpuOptions,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Graphics,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.ids import RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType, PublishedPort

LAUNCH = Launch(
    vm=VmId("vm-01m7ysnyghpha2pa88yjx222cp"),
    run=RunId("run-01m7ysnyghpha2pa88yjx222cp"),
    name="web-1",
    machine=MachineType.Q35,
    cpus=2,
    memory_bytes=512 * MIB,
    directory=Path("/data"),
    run_directory=Path("/run/nacre/x"),
    lock_fd=9,
)
QEMU = Surroundings(binary="q", accelerator="tcg")
LIMITS = RateLimits(bandwidth=TokenBucket(size=MIB))
PACKETS = RateLimits(operations=TokenBucket(size=100))
MICROVM = {"machine": MachineType.MICROVM}
TAP = TapNic(id="nic0", mac="", device="tap0")
FIRMWARE = FirmwareFiles(code=Path("/code"))


def user(**options) -> dict[str, object]:
    return {"nics": (UserNic(id="nic0", mac="", options=NicOptions(**options)),)}


def limited(nic, limits) -> dict[str, object]:
    return {"nics": (replace(nic, options=NicOptions(receive_limits=limits)),)}


def disks(*, cdrom: bool = False, count: int = 1, **options) -> dict[str, object]:
    one = DiskFile(id="d", path=Path("/d"), format="raw", cdrom=cdrom, options=DiskOptions(**options))
    return {"disks": tuple(replace(one, id=f"d{number}") for number in range(count))}


def served(**options) -> dict[str, object]:
    return {"disks": (VhostUserDisk(id="d", socket=Path("/s"), options=DiskOptions(**options)),)}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (MICROVM | {"memory_bytes": 96 * MIB}, "memory_too_small"),
        (MICROVM | {"cpu": CpuOptions(max=4)}, "resize_unsupported"),
        (MICROVM | {"memory": MemoryOptions(max_bytes=GIB)}, "resize_unsupported"),
        (MICROVM | {"numa": (NumaCell(cpus="0-1", memory_bytes=512 * MIB),)}, "numa_unsupported"),
        (MICROVM | {"firmware": FIRMWARE}, "uefi_unsupported"),
        (MICROVM | {"devices": DeviceOptions(graphics=Graphics.VNC)}, "graphics_unsupported"),
        (MICROVM | {"devices": DeviceOptions(watchdog=WatchdogAction.RESET)}, "device_unsupported"),
        (MICROVM | {"devices": DeviceOptions(panic=True)}, "device_unsupported"),
        (MICROVM | user(iommu=True), "iommu_unsupported"),
        ({"cpu": CpuOptions(max=1)}, "maximum_too_small"),
        ({"memory": MemoryOptions(max_bytes=MIB)}, "maximum_too_small"),
        ({"cpu": CpuOptions(topology=CpuTopology(cores=3))}, "topology_mismatch"),
        ({"memory": MemoryOptions(thp=False)}, "thp_fixed"),
        ({"numa": (NumaCell(cpus="0-1", memory_bytes=64 * MIB),)}, "numa_memory_mismatch"),
        ({"numa": (NumaCell(cpus="0-9", memory_bytes=512 * MIB),)}, "numa_cpus_mismatch"),
        (served(), "shared_memory_needed"),
        ({"nics": (VhostUserNic(id="n", mac="", socket=Path("/s")),)}, "shared_memory_needed"),
        (served(limits=LIMITS) | {"memory": MemoryOptions(shared=True)}, "disk_limits_unsupported"),
        (disks(limit_group="nowhere"), "limit_group_unknown"),
        (disks(queue_size=100), "queue_size_invalid"),
        (disks(pci_segment=1), "pci_segment_unsupported"),
        (disks(cdrom=True, count=7), "too_many_drives"),
        (disks(cdrom=True, count=5) | {"machine": MachineType.PC}, "too_many_drives"),
        (disks(count=22) | {"machine": MachineType.PC}, "too_many_devices"),
        (user(pci_segment=1), "pci_segment_unsupported"),
        (user(queue_size=64), "queue_size_invalid"),
        (user(queues=2), "user_network_limited"),
        (user(host_mac="52:4e:00:00:00:02"), "user_network_limited"),
        (user(send_limits=LIMITS), "nic_limits_unsupported"),
        (limited(MacvtapNic(id="n", mac="", device=Path("/dev/tap7")), LIMITS), "nic_limits_unsupported"),
        (
            limited(VhostUserNic(id="n", mac="", socket=Path("/s")), LIMITS) | {"memory": MemoryOptions(shared=True)},
            "nic_limits_unsupported",
        ),
        (limited(TAP, PACKETS), "nic_packet_limits_unsupported"),
        (limited(TAP, RateLimits(bandwidth=TokenBucket(size=1 << 33))), "nic_limit_too_deep"),
        (limited(TAP, LIMITS), "tap_unavailable"),
        (
            {
                "nics": (
                    UserNic(id="n", mac="", publish=(PublishedPort(guest_port=1, host_port=1, host_address="::1"),)),
                )
            },
            "ipv6_publish_unsupported",
        ),
        ({"nics": (TAP,)}, "tap_unavailable"),
        ({"devices": DeviceOptions(tpm=True)}, "tpm_missing"),
        ({"firmware": replace(FIRMWARE, secure_boot=True), "machine": MachineType.PC}, "secure_boot_unsupported"),
    ],
)
def test_what_qemu_cannot_do_is_refused_for_good_with_a_hint(changes: dict[str, object], code: str) -> None:
    with pytest.raises(DriverError) as caught:
        build(replace(LAUNCH, **changes), QEMU)  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"memory": MemoryOptions(shared=True)}, "memory_unsupported"),
        ({"memory": MemoryOptions(hugepage_bytes=2 * MIB)}, "memory_unsupported"),
        ({"nics": (TAP,)}, "network_unsupported"),
        ({"firmware": replace(FIRMWARE, secure_boot=True)}, "secure_boot_unsupported"),
    ],
)
def test_what_only_linux_can_do_is_refused_elsewhere(changes: dict[str, object], code: str) -> None:
    with pytest.raises(DriverError) as caught:
        build(replace(LAUNCH, **changes), replace(QEMU, linux=False))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.hint


def test_sockets_with_long_paths_are_an_operator_s_matter() -> None:
    with pytest.raises(DriverError) as caught:
        build(replace(LAUNCH, run_directory=Path("/" + "x" * 90)), QEMU)
    assert caught.value.code == "path_too_long"
    assert caught.value.failure_class is FailureClass.BLOCKED

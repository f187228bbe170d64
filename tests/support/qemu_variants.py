"""Machines of every kind that QEMU's command line has words for: by name, as changes of a plain one.

Used by the golden tests, and by the test that has the real QEMU accept each that this host can run.
"""

from collections.abc import Callable
from pathlib import Path

from nacre.agent.hypervisors.launch import (
    Confinement,
    DiskFile,
    FirmwareFiles,
    MacvtapNic,
    RbdDisk,
    TapNic,
    UserNic,
    VhostUserDisk,
    VhostUserNic,
)
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
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType, PublishedPort, TransportProtocol

Changes = dict[str, object]

BARE = DeviceOptions(rng="", guest_agent=False)
LIMITS = RateLimits(
    bandwidth=TokenBucket(size=8 * MIB, refill_ms=2000, burst=MIB), operations=TokenBucket(size=50, refill_ms=100)
)
KERNELLESS: Changes = {"kernel": None, "initrd": None, "kernel_args": ""}


def nic(**options: object) -> UserNic:
    return UserNic(id="nic0", mac="52:4e:00:00:00:01", options=NicOptions(**options))  # type: ignore[arg-type]


def disk(place: Path, name: str, form: str = "raw", **options: object) -> DiskFile:
    return DiskFile(id=name, path=place / f"{name}.{form}", format=form, options=DiskOptions(**options))  # type: ignore[arg-type]


def cd(place: Path, name: str = "seed") -> DiskFile:
    return DiskFile(id=name, path=place / f"{name}.raw", format="raw", read_only=True, cdrom=True)


VARIANTS: dict[str, Callable[[Path], Changes]] = {
    "plain": lambda _: {},
    "bare": lambda _: {"devices": BARE, "nics": ()},
    "pc": lambda at: {"machine": MachineType.PC, "disks": (disk(at, "root"),)},
    "microvm": lambda at: {"machine": MachineType.MICROVM, "disks": (disk(at, "root"), cd(at))},
    "published-ports": lambda _: {
        "nics": (
            UserNic(
                id="nic0",
                mac="52:4e:00:00:00:01",
                publish=(
                    PublishedPort(guest_port=80, host_port=28080),
                    PublishedPort(guest_port=53, host_port=25353, protocol=TransportProtocol.UDP),
                ),
            ),
        )
    },
    "boots-from-disk": lambda at: {**KERNELLESS, "disks": (disk(at, "root", "qcow2"), disk(at, "data"))},
    "installer": lambda at: {
        **KERNELLESS,
        "disks": (cd(at, "installer"), disk(at, "root", "qcow2"), cd(at)),
    },
    "installer-on-pc": lambda at: {
        **KERNELLESS,
        "machine": MachineType.PC,
        "disks": (cd(at, "installer"), disk(at, "root", "qcow2"), cd(at)),
    },
    "windows": lambda at: {
        **KERNELLESS,
        "disks": (disk(at, "root", "qcow2"), cd(at, "installer"), cd(at, "drivers")),
        "cpu": CpuOptions(hyperv=True),
        "devices": DeviceOptions(graphics=Graphics.VNC),
    },
    "cpus": lambda _: {
        "cpus": 2,
        "cpu": CpuOptions(
            max=8,
            model="qemu64",
            topology=CpuTopology(threads=2, cores=2, dies=1, packages=2),
            pins=(CpuPin(cpu=0, host_cpus="0"), CpuPin(cpu=1, host_cpus="0-1")),
        ),
    },
    "cpus-on-pc": lambda _: {"machine": MachineType.PC, "cpus": 1, "cpu": CpuOptions(max=4)},
    "memory-as-dimms": lambda _: {"memory": MemoryOptions(max_bytes=2 * GIB)},
    "memory-as-virtio-mem": lambda _: {
        "memory": MemoryOptions(max_bytes=GIB, hotplug=HotplugMethod.VIRTIO_MEM, shared=True)
    },
    "memory-shared": lambda _: {"memory": MemoryOptions(shared=True, mergeable=True, prefault=True)},
    "memory-huge-pages": lambda _: {
        "memory": MemoryOptions(hugepage_bytes=2 * MIB, thp=False, max_bytes=GIB, hotplug=HotplugMethod.VIRTIO_MEM)
    },
    "memory-nodes": lambda _: {
        "cpus": 2,
        "cpu": CpuOptions(max=4),
        "memory_bytes": 256 * MIB,
        "memory": MemoryOptions(max_bytes=GIB),
        "numa": (
            NumaCell(cpus="0,2", memory_bytes=64 * MIB, host_nodes="0"),
            NumaCell(cpus="1", memory_bytes=192 * MIB),
        ),
    },
    "balloon": lambda _: {
        "memory": MemoryOptions(balloon=Balloon(reclaim_bytes=16 * MIB, free_page_reporting=True)),
    },
    "disk-options": lambda at: {
        "disks": (
            disk(at, "root", "qcow2", direct=True, queues=4, queue_size=256, serial="SERIAL-1"),
            disk(at, "data", read_only=True),
            disk(at, "vol-01m7ysnyghpha2pa88yjx222cp"),
            disk(at, "a-name-that-is-longer-than-block-nodes-may-have"),
        )
    },
    "disk-limits": lambda at: {
        "disks": (
            disk(at, "root", "qcow2", limits=LIMITS),
            disk(at, "one", limit_group="slow"),
            disk(at, "two", limit_group="slow", read_only=True),
        ),
        "limit_groups": (LimitGroup(name="slow", limits=LIMITS),),
    },
    "disk-rbd": lambda _: {
        "disks": (
            RbdDisk(
                id="root",
                pool="vms",
                image="root-1",
                configuration=Path("/etc/ceph/ceph.conf"),
                user="nacre",
                options=DiskOptions(limits=LIMITS),
            ),
            RbdDisk(
                id="data",
                pool="vms",
                image="data-1",
                configuration=Path("/run/nacre/x/data.conf"),
                user="nacre",
                secret=Path("/run/nacre/x/data.key"),
                read_only=True,
            ),
        )
    },
    "disk-device": lambda _: {"disks": (DiskFile(id="root", path=Path("/dev/vg0/root"), format="raw"),)},
    "disk-vhost-user": lambda at: {
        "disks": (VhostUserDisk(id="root", socket=at / "disk.sock"),),
        "memory": MemoryOptions(shared=True),
        **KERNELLESS,
    },
    "nic-options": lambda _: {
        "nics": (nic(mtu=1400, queue_size=512, tso=False, ufo=False, checksum=False, iommu=True),),
    },
    "nic-tap": lambda _: {
        "nics": (TapNic(id="nic0", mac="52:4e:00:00:00:01", device="nct0", options=NicOptions(queues=2)),)
    },
    "nic-macvtap": lambda _: {"nics": (MacvtapNic(id="nic0", mac="52:4e:00:00:00:01", device=Path("/dev/tap7")),)},
    "nic-vhost-user": lambda at: {
        "nics": (
            VhostUserNic(
                id="nic0",
                mac="52:4e:00:00:00:01",
                socket=at / "nic.sock",
                options=NicOptions(queues=2, queue_size=1024),
            ),
            VhostUserNic(id="nic1", mac="52:4e:00:00:00:02", socket=at / "nic1.sock", server=True),
        ),
        "memory": MemoryOptions(shared=True),
    },
    "consoles-off": lambda _: {"devices": DeviceOptions(serial=ConsoleMode.OFF, console=ConsoleMode.SOCKET)},
    "consoles-null": lambda _: {"devices": DeviceOptions(serial=ConsoleMode.NULL, console=ConsoleMode.NULL)},
    "consoles-file": lambda _: {"devices": DeviceOptions(serial=ConsoleMode.FILE, console=ConsoleMode.FILE)},
    "consoles-pty": lambda _: {"devices": DeviceOptions(serial=ConsoleMode.PTY, console=ConsoleMode.PTY)},
    "consoles-tty": lambda _: {"devices": DeviceOptions(serial=ConsoleMode.TTY)},
    "small-devices": lambda _: {
        "devices": DeviceOptions(
            rng="/dev/random", watchdog=WatchdogAction.PAUSE, graphics=Graphics.VNC, panic=True, guest_agent=True
        )
    },
    "small-devices-on-pc": lambda _: {
        "machine": MachineType.PC,
        "devices": DeviceOptions(watchdog=WatchdogAction.RESET, graphics=Graphics.VNC, panic=True),
        "memory": MemoryOptions(balloon=Balloon(deflate_on_oom=False), max_bytes=GIB, hotplug=HotplugMethod.VIRTIO_MEM),
        "nics": (nic(iommu=True),),
    },
    "tpm": lambda at: {"devices": DeviceOptions(tpm=True), "tpm_socket": at / "tpm.sock"},
    "uefi": lambda at: {
        **KERNELLESS,
        "firmware": FirmwareFiles(code=at / "OVMF_CODE_4M.fd", variables=at / "OVMF_VARS_4M.fd"),
        "disks": (disk(at, "root"),),
    },
    "secure-boot": lambda at: {
        **KERNELLESS,
        "firmware": FirmwareFiles(
            code=at / "OVMF_CODE_4M.secboot.fd", variables=at / "OVMF_VARS_4M.fd", secure_boot=True
        ),
        "disks": (disk(at, "root"),),
    },
    "confined": lambda at: {
        "confinement": Confinement(uid=12345, gid=12345),
        "disks": (disk(at, "root", "qcow2"),),
    },
    "many-devices": lambda at: {
        "disks": tuple(disk(at, f"disk{number}") for number in range(32)),
        "nics": tuple(UserNic(id=f"nic{number}", mac=f"52:4e:00:00:00:{number:02x}") for number in range(8)),
    },
}

OF_OTHERS = frozenset(
    {"confined", "disk-rbd", "disk-device", "disk-vhost-user", "nic-tap", "nic-macvtap", "nic-vhost-user"}
)
"""What needs something that other processes or the host have made."""

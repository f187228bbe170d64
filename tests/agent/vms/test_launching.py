"""From an intent to a launch."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec

from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.images.cache import CachedImage
from nacre.agent.vms import launching
from nacre.model.hardware import DiskOptions
from nacre.model.ids import RunId
from nacre.model.images import Role
from nacre.model.vms import HaPolicy, NicSpec, PublishedPort, nic_mac
from support.intents import vm_intent

HOST = SimpleNamespace(
    place=lambda vm: Path("/data") / vm,
    run_place=lambda vm: Path("/run") / vm,
    lease_file=lambda vm, fence: Path("/run") / f"{vm}.{fence}.lease",
)
RUN = RunId("run-1")


def launched(intent, image=None):
    image = image or CachedImage({Role.KERNEL: Path("/k"), Role.INITRD: Path("/i")})
    return launching.launch(intent, image, (), run=RUN, lock_fd=9, host=HOST)  # type: ignore[arg-type]


def test_a_launch_says_everything_about_one_life():
    intent = vm_intent(kernel_args="quiet")
    intent = msgspec.structs.replace(intent, image=msgspec.structs.replace(intent.image, kernel_args="console=ttyS0"))
    launch = launched(intent)
    assert (launch.kernel, launch.initrd, launch.kernel_args) == (Path("/k"), Path("/i"), "console=ttyS0 quiet")
    assert (launch.vm, launch.run, launch.lock_fd) == (intent.id, RUN, 9)
    assert launch.directory == Path("/data") / intent.id


def test_without_a_kernel_there_are_no_kernel_arguments():
    launch = launched(vm_intent(kernel_args="quiet"), CachedImage({Role.DISK: Path("/d")}))
    assert (launch.kernel, launch.kernel_args) == (None, "")


def test_ports_lead_to_the_first_nic_and_addresses_are_stable():
    port = PublishedPort(guest_port=80, host_port=8080)
    intent = vm_intent(publish=(port,), nics=(NicSpec(), NicSpec(mac="52:00:00:00:00:01")))
    first, second = launched(intent).nics
    assert (first.publish, second.publish) == ((port,), ())
    assert (first.mac, second.mac) == (nic_mac(intent.id, 0), "52:00:00:00:00:01")
    assert launched(vm_intent(nics=())).nics == ()


def test_adopting_needs_only_places():
    launch = launching.to_adopt(vm_intent().id, RUN, HOST)  # type: ignore[arg-type]
    assert replace(launch).lock_fd == -1


def test_only_what_may_be_restarted_elsewhere_runs_on_a_lease_and_each_placement_on_its_own():
    assert launched(vm_intent()).lease is None
    intent = vm_intent(ha=HaPolicy.RESTART, fence=7)
    assert launched(intent).lease == Path("/run") / f"{intent.id}.7.lease"
    assert launching.to_adopt(intent.id, RUN, HOST, fence=7).lease == launched(intent).lease  # type: ignore[arg-type]


def test_the_whole_configuration_reaches_the_driver():
    from nacre.agent.hypervisors.launch import DiskFile, FirmwareFiles
    from nacre.model.hardware import CpuOptions, DeviceOptions, DiskOptions, MemoryOptions, NicOptions

    intent = vm_intent(
        cpu=CpuOptions(max=4),
        memory=MemoryOptions(shared=True),
        devices=DeviceOptions(tpm=True),
        root_disk=DiskOptions(serial="S1"),
        nics=(NicSpec(options=NicOptions(mtu=1400)),),
    )
    ready = launching.Ready(firmware=FirmwareFiles(code=Path("/ovmf")), tpm_socket=Path("/run/tpm.sock"))
    image = CachedImage({Role.ISO: Path("/iso")})
    disk = DiskFile(id="root", path=Path("/d"), format="qcow2")
    launch = launching.launch(intent, image, (disk,), run=RUN, lock_fd=9, host=HOST, ready=ready)  # type: ignore[arg-type]
    assert (launch.cpu.max, launch.memory.shared, launch.devices.tpm) == (4, True, True)
    assert (launch.firmware, launch.tpm_socket) == (ready.firmware, ready.tpm_socket)
    assert [(each.id, each.cdrom, each.options.serial) for each in launch.disks] == [
        ("root", False, "S1"),
        ("medium", True, ""),
    ]
    assert launch.nics[0].options.mtu == 1400


def test_what_cloud_init_reads_is_the_last_disk_and_only_the_root_disk_is_connected_as_the_machine_says():
    asked, own = DiskOptions(serial="mine"), DiskOptions(serial="volume")
    root = DiskFile(id=launching.ROOT_DISK, path=Path("/data/root.qcow2"), format="qcow2")
    volume = DiskFile(id="vol-1", path=Path("/pool/vol-1.raw"), format="raw", options=own)
    launch = launching.launch(
        vm_intent(root_disk=asked),
        CachedImage({Role.DISK: Path("/d"), Role.ISO: Path("/iso")}),
        (root, volume),
        run=RUN,
        lock_fd=9,
        host=HOST,  # type: ignore[arg-type]
        ready=launching.Ready(seed=Path("/data/seed.iso")),
    )
    files = [disk for disk in launch.disks if isinstance(disk, DiskFile)]
    assert [(disk.id, disk.options) for disk in files] == [
        (launching.ROOT_DISK, asked),
        ("vol-1", own),
        (launching.MEDIUM, DiskOptions()),
        (launching.SEED_DISK, DiskOptions()),
    ]
    assert (files[-1].path, files[-1].read_only, files[-1].cdrom) == (Path("/data/seed.iso"), True, False)

"""The real QEMU takes every command line that this host can run: none of the golden ones is one that it refuses."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, MacvtapNic, TapNic, VhostUserDisk
from nacre.agent.hypervisors.qemu.command_line import DISPLAY_SOCKET, GUEST_SOCKET
from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from nacre.model.hardware import ConsoleMode, DeviceOptions, NicOptions
from nacre.model.units import MIB
from support import bootsector
from support.guests import tiny_image
from support.machines import Bench, printed, ready
from support.qemu_variants import OF_OTHERS, VARIANTS
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

OVMF = Path(os.environ.get("NACRE_OVMF", "/usr/share/OVMF"))
SWTPM = shutil.which("swtpm")


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.close()


@pytest.fixture
def driver(bench):
    return QemuHypervisor(state_directory=bench.root / "state", candidates=())


def plain(bench, **changes):
    image = tiny_image()
    basis = {"kernel": image.kernel, "initrd": image.initrd, "kernel_args": image.kernel_args}
    launch = bench.launch(**basis)
    made = {key: value for key, value in changes.items() if key != "variant"}
    if "variant" in changes:
        made = VARIANTS[changes["variant"]](launch.directory) | made
    return replace(launch, **made)


def furnish(launch) -> None:
    """Make the files that a launch names."""
    for disk in launch.disks:
        if not isinstance(disk, DiskFile):
            continue
        if disk.format == "qcow2":
            subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(disk.path), "16M"], check=True)
        else:
            disk.path.write_bytes(bytes(MIB))
    if launch.firmware is not None:
        for path in (launch.firmware.code, launch.firmware.variables):
            if not (OVMF / path.name).exists():
                pytest.skip("no OVMF on this host (apt-get install ovmf)")
            shutil.copy(OVMF / path.name, path)


@contextlib.contextmanager
def huge_pages(size: int):
    """Reserve so much of the host's memory; yields whether there is so much in one piece."""
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
    before = pool.read_text()
    if os.getuid() == 0:
        pool.write_text(str(int(before) + size // (2 * MIB)))
    try:
        yield int(pool.with_name("free_hugepages").read_text()) * 2 * MIB >= size
    finally:
        if os.getuid() == 0:
            pool.write_text(before)


@contextlib.contextmanager
def tpm(launch):
    if SWTPM is None:
        pytest.skip("no swtpm on this host (apt-get install swtpm)")
    state = launch.directory / "tpm"
    state.mkdir()
    words = [SWTPM, "socket", "--tpm2", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={launch.tpm_socket}"]
    process = subprocess.Popen(words)
    try:
        while not launch.tpm_socket.exists():
            assert process.poll() is None
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", sorted(set(VARIANTS) - OF_OTHERS))
async def test_qemu_takes_it(driver, bench, name):
    launch = plain(bench, variant=name)
    furnish(launch)
    with contextlib.ExitStack() as held:
        if launch.tpm_socket is not None:
            held.enter_context(tpm(launch))
        if name == "memory-huge-pages" and not held.enter_context(huge_pages(launch.memory.max_bytes or 0)):
            pytest.skip("the host's memory has no room for huge pages, or is not ours to reserve")
        guest = bench.keep(await driver.start(launch))
        assert await guest.state() is GuestState.RUNNING
        await guest.kill()


async def test_without_huge_pages_the_error_says_so(driver, bench):
    pool = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    launch = plain(bench, variant="memory-huge-pages")
    if int(pool.read_text()) * 2 * MIB >= launch.memory_bytes:
        pytest.skip("somebody has reserved huge pages on this host")
    furnish(launch)
    with pytest.raises(DriverError) as caught:
        await driver.start(launch)
    assert caught.value.code == "memory_exhausted"


async def test_a_guest_with_everything_boots_and_sees_it(driver, bench):
    """Many devices at once, in a guest that counts them."""
    launch = plain(bench, variant="disk-limits")
    small = DeviceOptions(console=ConsoleMode.SOCKET, panic=True)
    launch = replace(launch, devices=small, memory=VARIANTS["balloon"](launch.directory)["memory"])
    furnish(launch)
    guest = bench.keep(await driver.start(launch))
    await ready(guest)
    assert "ip=10.0.2.15" in printed(guest)
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(b"\ncat /proc/partitions /sys/class/virtio-ports/*/name; cat /sys/block/vda/serial; echo do''ne\n")
    await until(lambda: "done" in printed(guest))
    for expected in ("vda", "vdb", "vdc", "org.qemu.guest_agent.0", "root"):
        assert expected in printed(guest)
    writer.close()


@pytest.mark.parametrize("name", ["uefi", "secure-boot"])
async def test_uefi_finds_nothing_to_boot_on_an_empty_disk_and_says_so(driver, bench, name):
    launch = plain(bench, variant=name)
    furnish(launch)
    guest = bench.keep(await driver.start(launch))
    await until(lambda: "BdsDxe" in printed(guest), timeout=120)


async def test_bios_boots_from_an_installer_before_the_disks(driver, bench):
    launch = plain(bench, variant="installer")
    furnish(launch)
    # The first disk has no system: the drive with the medium is asked first, and then the disks in their order.
    bootable = replace(launch.disks[1], format="raw", path=launch.directory / "boot.raw")
    bootable.path.write_bytes(bootsector.disk_image())
    guest = bench.keep(await driver.start(replace(launch, disks=(launch.disks[0], bootable))))
    await until(lambda: bootsector.WORD in printed(guest), timeout=150)


async def test_a_screen_and_the_channel_of_the_guest_s_agent_are_sockets(driver, bench):
    launch = plain(bench, variant="small-devices")
    guest = bench.keep(await driver.start(launch))
    reader, writer = await asyncio.open_unix_connection(launch.run_directory / DISPLAY_SOCKET)
    assert (await reader.readexactly(12)).startswith(b"RFB 003.")
    writer.close()
    assert (launch.run_directory / GUEST_SOCKET).exists()
    await guest.kill()
    assert list(launch.run_directory.iterdir()) == []


async def test_virtual_cpus_are_bound_to_the_host_s(driver, bench):
    guest = bench.keep(await driver.start(plain(bench, variant="cpus")))
    found = {}
    for task in Path(f"/proc/{guest.handle.pid}/task").iterdir():
        found[(task / "comm").read_text().strip()] = os.sched_getaffinity(int(task.name))
    assert found["CPU 0/TCG"] == {0}
    assert found["CPU 1/TCG"] == {0, 1} & os.sched_getaffinity(0)


async def test_a_cpu_that_the_host_lacks_cannot_be_bound_to(driver, bench):
    launch = plain(bench, variant="cpus")
    pin = replace_pin(launch, "1000")
    with pytest.raises(DriverError) as caught:
        await driver.start(pin)
    assert caught.value.code == "cpu_pin_failed"
    assert list(launch.run_directory.iterdir()) == []


def replace_pin(launch, host_cpus):
    pins = tuple(type(pin)(cpu=pin.cpu, host_cpus=host_cpus) for pin in launch.cpu.pins)
    return replace(launch, cpu=type(launch.cpu)(max=launch.cpu.max, pins=pins))


async def test_a_disk_that_another_process_serves(driver, bench):
    daemon = shutil.which("qemu-storage-daemon")
    if daemon is None:
        pytest.skip("no qemu-storage-daemon on this host")
    launch = plain(bench, variant="disk-vhost-user")
    image = tiny_image()
    launch = replace(launch, kernel=image.kernel, initrd=image.initrd, kernel_args=image.kernel_args)
    served = launch.directory / "served.raw"
    served.write_bytes(bytes(16 * MIB))
    disk = launch.disks[0]
    assert isinstance(disk, VhostUserDisk)
    export = f"type=vhost-user-blk,id=e,addr.type=unix,addr.path={disk.socket},node-name=d,writable=on"
    words = [daemon, "--blockdev", f"driver=file,filename={served},node-name=d", "--export", export]
    process = subprocess.Popen(words)
    try:
        await until(disk.socket.exists)
        guest = bench.keep(await driver.start(launch))
        await ready(guest)
        _, writer = await asyncio.open_unix_connection(guest.console_socket)
        writer.write(b"\ncat /proc/partitions; mount | grep data; echo do''ne\n")
        await until(lambda: "done" in printed(guest))
        assert "/dev/vda on /data" in printed(guest)
        writer.close()
        await guest.kill()
    finally:
        process.kill()
        process.wait()


async def test_a_tap_is_used_and_a_missing_one_is_not_made(driver, bench):
    name = f"nct{os.getpid() % 100_000}"
    words = ["ip", "tuntap", "add", "dev", name, "mode", "tap", "multi_queue"]
    if os.getuid() != 0 or subprocess.run(words, capture_output=True).returncode:
        pytest.skip("no tap devices can be made here")
    try:
        nic = TapNic(id="nic0", mac="52:4e:00:00:00:01", device=name, options=NicOptions(queues=2, mtu=1400))
        guest = bench.keep(await driver.start(plain(bench, nics=(nic,))))
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        await until(lambda: Path(f"/sys/class/net/{name}/carrier").read_text().strip() == "1")
        await guest.kill()
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)
    with pytest.raises(DriverError) as caught:
        await driver.start(plain(bench, nics=(nic,)))
    assert caught.value.code == "network_device_unusable"
    assert not Path(f"/sys/class/net/{name}").exists()


async def test_a_macvtap_is_used(driver, bench):
    number = os.getpid() % 100_000
    parent, name = f"ncd{number}", f"ncm{number}"
    made = subprocess.run(["ip", "link", "add", parent, "type", "veth"], capture_output=True).returncode == 0
    try:
        words = ["ip", "link", "add", "link", parent, "name", name, "type", "macvtap", "mode", "bridge"]
        if not made or subprocess.run(words, capture_output=True).returncode:
            pytest.skip("no macvtap devices can be made here")
        device = Path("/dev") / f"tap{Path(f'/sys/class/net/{name}/ifindex').read_text().strip()}"
        if not device.exists():
            major, minor = map(
                int, next(Path(f"/sys/class/net/{name}/macvtap").iterdir()).joinpath("dev").read_text().split(":")
            )
            device = bench.root / "tap"
            os.mknod(device, 0o20600, os.makedev(major, minor))
        nic = MacvtapNic(id="nic0", mac=Path(f"/sys/class/net/{name}/address").read_text().strip(), device=device)
        guest = bench.keep(await driver.start(plain(bench, nics=(nic,))))
        await guest.kill()
    finally:
        subprocess.run(["ip", "link", "del", parent], capture_output=True)

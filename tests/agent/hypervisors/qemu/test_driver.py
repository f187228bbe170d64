"""What is special to the QEMU driver: broken installations, disks that boot, boards, doubtful adoptions."""

import asyncio
import os
import signal
import socket
import subprocess
import time
from dataclasses import replace

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.hypervisors.qemu.acceleration import Candidate, Verdicts
from nacre.agent.hypervisors.qemu.command_line import QMP_SOCKET
from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from nacre.agent.hypervisors.qemu.qmp import Qmp
from nacre.model.convergence import FailureClass
from nacre.model.hardware import DeviceOptions
from nacre.model.units import MIB
from nacre.model.vms import ExitReason, MachineType, PublishedPort
from support import bootsector
from support.guests import tiny_image
from support.machines import Bench, Watch, printed, ready
from support.platform import free_port
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.close()


@pytest.fixture
def driver(bench):
    return QemuHypervisor(state_directory=bench.root / "state", candidates=())


def tiny(bench, **changes):
    image = tiny_image()
    basis = {"kernel": image.kernel, "initrd": image.initrd, "kernel_args": image.kernel_args}
    return bench.launch(**(basis | changes))


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


async def test_a_missing_qemu_is_unavailable_with_a_reason_and_what_to_do(tmp_path, bench):
    driver = QemuHypervisor(state_directory=tmp_path, binary="qemu-system-nowhere")
    info = await driver.probe()
    assert not info.available
    assert "not installed" in info.reason
    assert "apt-get install" in info.reason
    with pytest.raises(DriverError) as caught:
        await driver.start(tiny(bench))
    assert caught.value.code == "hypervisor_unavailable"
    assert caught.value.failure_class is FailureClass.BLOCKED


@pytest.mark.parametrize("text", ["exit 127", "echo nonsense", "kill -SEGV $$", "exec sleep 600"])
async def test_a_broken_qemu_is_unavailable_and_is_asked_again_when_it_was_replaced(tmp_path, text, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.qemu.installed.PROBE_S", 0.3)
    binary = program(tmp_path / "qemu", text)
    driver = QemuHypervisor(state_directory=tmp_path, binary=binary, candidates=())
    assert not (await driver.probe()).available
    monkeypatch.undo()
    program(tmp_path / "qemu", 'exec qemu-system-x86_64 "$@"')
    assert (await driver.probe()).available


async def test_a_qemu_built_without_a_sandbox_is_used_without(tmp_path, bench):
    binary = program(tmp_path / "qemu", 'case "$*" in *-sandbox*) exit 1;; esac\nexec qemu-system-x86_64 "$@"')
    driver = QemuHypervisor(state_directory=tmp_path, binary=binary, candidates=())
    assert (await driver.probe()).available
    guest = bench.keep(await driver.start(bench.launch()))
    await guest.kill()


@pytest.mark.parametrize("format_", ["raw", "qcow2"])
@pytest.mark.parametrize("machine", [MachineType.Q35, MachineType.PC])
async def test_a_disk_boots_by_bios_and_can_be_written(driver, bench, format_, machine):
    launch = bench.launch(machine=machine)
    raw = launch.directory / "disk.raw"
    raw.write_bytes(bootsector.disk_image())
    path = raw
    if format_ == "qcow2":
        path = launch.directory / "disk.qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw), "-F", "raw", str(path)], check=True)
    disks = (DiskFile(id="root", path=path, format=format_),)
    guest = bench.keep(await driver.start(replace(launch, disks=disks)))
    await until(lambda: bootsector.WORD in printed(guest))

    def written():
        words = ["qemu-io", "-U", "-r", "-f", format_, "-c", f"read -v {bootsector.WRITTEN_AT} 16", str(path)]
        return bootsector.WORD in subprocess.run(words, capture_output=True, text=True).stdout

    await until(written)
    await guest.kill()


async def test_a_disk_that_cannot_boot_says_so_on_the_console(driver, bench):
    launch = bench.launch()
    (launch.directory / "disk.raw").write_bytes(bytes(MIB))
    disk = DiskFile(id="root", path=launch.directory / "disk.raw", format="raw")
    guest = bench.keep(await driver.start(replace(launch, disks=(disk,))))
    await until(lambda: "No bootable device" in printed(guest))


@pytest.mark.parametrize("machine", [MachineType.PC, MachineType.MICROVM])
async def test_the_other_boards_boot_with_disk_and_network_and_obey_the_power_button(driver, bench, machine):
    launch = tiny(bench, machine=machine)
    path = launch.directory / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    launch = replace(launch, disks=(DiskFile(id="root", path=path, format="qcow2"),))
    guest = bench.keep(await driver.start(launch))
    watch = Watch(guest)
    await ready(guest)
    assert "ip=10.0.2.15/24" in printed(guest)
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED


async def test_a_blank_disk_becomes_a_file_system_that_keeps_what_was_written(driver, bench):
    launch = tiny(bench)
    path = launch.directory / "data.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    launch = replace(launch, disks=(DiskFile(id="root", path=path, format="qcow2"),))
    for life, command in enumerate((b"echo precious > /data/file; echo do''ne\n", b"cat /data/file; echo do''ne\n")):
        guest = bench.keep(await driver.start(launch))
        watch = Watch(guest)
        await ready(guest, times=life + 1)
        reader, writer = await asyncio.open_unix_connection(guest.console_socket)
        writer.write(b"\n" + command)
        await until(lambda life=life, guest=guest: printed(guest).count("done") > life)
        await guest.shutdown()
        assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
        writer.close()
        del reader
    assert "precious" in printed(guest).rpartition("cat /data")[2]


async def test_a_kernel_that_is_none_is_a_permanent_failure_and_leaves_nothing(driver, bench):
    launch = tiny(bench)
    bad = launch.directory / "kernel"
    bad.write_bytes(b"no kernel" * 1000)
    with pytest.raises(DriverError) as caught:
        await driver.start(replace(launch, kernel=bad))
    assert caught.value.code == "kernel_unusable"
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert str(bench.root) not in caught.value.message
    assert list(launch.run_directory.iterdir()) == []


async def test_a_disk_in_use_is_refused(driver, bench):
    launch = bench.launch()
    (launch.directory / "disk.raw").write_bytes(bytes(MIB))
    disks = (DiskFile(id="root", path=launch.directory / "disk.raw", format="raw"),)
    bench.keep(await driver.start(replace(launch, disks=disks)))
    with pytest.raises(DriverError) as caught:
        await driver.start(replace(bench.launch(), disks=disks))
    assert caught.value.code == "disk_in_use"


async def test_a_port_taken_between_the_check_and_the_start_is_named_too(driver, bench, monkeypatch):
    monkeypatch.setattr("nacre.agent.hypervisors.ports.check_free", lambda ports: list(ports))
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        number = stranger.getsockname()[1]
        with pytest.raises(DriverError) as caught:
            await driver.start(tiny(bench, publish=(PublishedPort(guest_port=80, host_port=number),)))
    assert caught.value.code == "port_in_use"
    assert str(number) in caught.value.message


async def test_an_accelerator_that_fails_at_start_is_given_up_and_the_machine_starts_without(bench, tmp_path):
    """A wrapper plays a QEMU whose accelerator has stopped working since it was proven."""
    refuses = 'echo "qemu-system-x86_64: -accel kvm: failed to initialize kvm: Permission denied" >&2; exit 1'
    binary = program(tmp_path / "qemu", f'case "$*" in *"-accel kvm"*) {refuses};; esac\nexec qemu-system-x86_64 "$@"')
    (tmp_path / "device").touch()
    kvm = Candidate("kvm", tmp_path / "device")
    driver = QemuHypervisor(state_directory=tmp_path / "state", binary=binary, candidates=(kvm,))
    version = (await driver.probe()).version
    Verdicts(tmp_path / "state").save(kvm, version, works=True)
    assert (await driver.probe()).accelerator == "kvm"
    guest = bench.keep(await driver.start(bench.launch()))
    assert guest.handle.accelerator == "tcg"
    assert "failed to initialize kvm" in guest.handle.accelerator_reason
    assert (await driver.probe()).accelerator == "tcg"


async def test_a_guest_whose_monitor_is_silent_is_still_adopted_and_seen_to_die(driver, bench, monkeypatch):
    launch = bench.launch()
    guest = await driver.start(launch)
    await guest.detach()
    os.kill(guest.handle.pid, signal.SIGSTOP)
    monkeypatch.setattr("nacre.agent.hypervisors.qemu.driver._ADOPT_S", 0.2)
    monkeypatch.setattr("nacre.agent.hypervisors.qemu.guest._ANSWER_S", 0.3)
    again = bench.keep(await driver.adopt(launch, guest.handle))
    watch = Watch(again)
    with pytest.raises(DriverError) as caught:
        await again.state()
    assert caught.value.code == "hypervisor_silent"
    os.kill(guest.handle.pid, signal.SIGCONT)
    await watch.until(GuestState.RUNNING)
    assert await again.state() is GuestState.RUNNING
    at = time.monotonic()
    os.kill(guest.handle.pid, signal.SIGKILL)
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.CRASHED
    assert time.monotonic() - at < 5


async def test_a_death_while_the_monitor_was_lost_is_seen_at_once(driver, bench):
    guest = bench.keep(await driver.start(bench.launch()))
    watch = Watch(guest)
    await guest._qmp.close()
    at = time.monotonic()
    os.kill(guest.handle.pid, signal.SIGKILL)
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.CRASHED
    assert time.monotonic() - at < 5


async def test_a_lost_monitor_is_found_again_and_what_happened_meanwhile_is_told(driver, bench):
    launch = bench.launch()
    guest = bench.keep(await driver.start(launch))
    watch = Watch(guest)
    lost = guest._qmp
    await lost.close()
    await until(lambda: guest._qmp not in {None, lost})
    await guest.pause()
    await watch.until(GuestState.PAUSED)


async def test_an_end_by_a_signal_on_the_host_is_a_crash_that_says_so(driver, bench):
    guest = bench.keep(await driver.start(bench.launch()))
    watch = Watch(guest)
    os.kill(guest.handle.pid, signal.SIGTERM)
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.CRASHED
    assert "signal" in gone.detail


async def test_a_stranger_on_the_monitor_socket_is_an_operator_s_matter(driver, bench):
    launch = bench.launch()
    guest = bench.keep(await driver.start(launch))
    await guest.detach()
    (launch.run_directory / QMP_SOCKET).unlink()
    other = bench.launch(run_directory=launch.run_directory)
    bench.keep(await driver.start(other))
    await bench.guests[-1].detach()
    with pytest.raises(DriverError) as caught:
        await driver.adopt(launch, guest.handle)
    assert caught.value.code == "socket_of_another"
    assert caught.value.failure_class is FailureClass.BLOCKED


async def test_the_guest_s_own_restart_is_told(driver, bench):
    guest = bench.keep(await driver.start(tiny(bench)))
    watch = Watch(guest)
    await ready(guest)
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(b"\nreboot\n")
    await ready(guest, times=2)
    assert any(event.detail == "the guest restarted itself" for event in watch.events)
    writer.close()


async def test_the_power_button_wakes_a_paused_guest(driver, bench):
    guest = bench.keep(await driver.start(tiny(bench)))
    watch = Watch(guest)
    await ready(guest)
    await guest.pause()
    await guest.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED


ON_A_FULL_DISK = """case "$*" in *"-machine none"*) exec qemu-system-x86_64 "$@";; esac
exec unshare -rm sh -c 'mount -t tmpfs -o size=4k tmpfs "$0" && truncate -s 1M "$0/disk.raw" &&
dd if="$0/../boot.raw" of="$0/disk.raw" bs=512 count=1 conv=notrunc 2>/dev/null && exec qemu-system-x86_64 "$@"' {} "$@"
"""


async def test_a_full_disk_pauses_the_guest_and_says_so(bench):
    """The guest writes to a disk whose file system has no room: one page of memory, all in use."""
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces here")
    launch = bench.launch()
    full = launch.directory / "full"
    full.mkdir()
    (launch.directory / "boot.raw").write_bytes(bootsector.disk_image())
    binary = program(bench.root / "qemu", ON_A_FULL_DISK.format(full))
    driver = QemuHypervisor(state_directory=bench.root / "state", binary=binary, candidates=())
    disks = (DiskFile(id="root", path=full / "disk.raw", format="raw"),)
    guest = bench.keep(await driver.start(replace(launch, disks=disks)))
    watch = Watch(guest)
    failed = await watch.until(GuestState.FAILED)
    assert "full" in failed.detail
    assert await guest.state() is GuestState.FAILED
    await guest.resume()

    async def failed_again():
        return await guest.state() is GuestState.FAILED

    await until(failed_again)
    await guest.kill()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.KILLED


PANIC = bytes.fromhex("b001ba0505eeb8be00f4ebfd").ljust(510, b"\0") + b"\x55\xaa"
"""A boot sector that tells pvpanic (port 0x505) that the kernel has panicked, and halts."""


async def test_a_panicked_guest_stands_still_until_it_is_resumed_or_reset(driver, bench):
    disk = bench.root / "panic.raw"
    disk.write_bytes(PANIC.ljust(1 << 20, b"\0"))
    launch = replace(bench.launch(), kernel=None, initrd=None, kernel_args="", devices=DeviceOptions(panic=True))
    guest = bench.keep(await driver.start(replace(launch, disks=(DiskFile(id="root", path=disk, format="raw"),))))
    watch = Watch(guest)
    assert "panicked" in (await watch.until(GuestState.HALTED)).detail
    assert await guest.state() is GuestState.HALTED
    await guest.pause()
    assert await guest.state() is GuestState.HALTED
    await guest.resume()
    assert await guest.state() is GuestState.RUNNING
    for _ in range(2):
        watch.events.clear()
        await guest.reset()  # runs, and panics once more
        await watch.until(GuestState.HALTED)


async def test_a_paused_guest_runs_after_a_reset(driver, bench):
    guest = bench.keep(await driver.start(replace(bench.launch(), kernel=None, initrd=None, kernel_args="")))
    await guest.pause()
    await guest.reset()
    assert await guest.state() is GuestState.RUNNING


async def test_the_hypervisor_s_log_is_bounded(driver, bench):
    launch = bench.launch()
    (launch.directory / "hypervisor.log").write_bytes(b"x" * (1 << 20))
    guest = bench.keep(await driver.start(launch))
    assert (launch.directory / "hypervisor.log").stat().st_size < 100_000
    await guest.kill()


async def test_a_command_that_qemu_refuses_is_an_error_with_a_hint(driver, bench):
    launch = bench.launch()
    guest = bench.keep(await driver.start(launch))
    with pytest.raises(DriverError) as caught:
        await guest._execute("no-such-command")
    assert caught.value.code == "hypervisor_refused"
    assert caught.value.hint
    await guest.detach()
    qmp = await Qmp.connect(launch.run_directory / QMP_SOCKET, 5)
    schema = await qmp.execute("query-qmp-schema", timeout=5)
    assert len(schema) > 500
    await qmp.close()
    await qmp.close()


async def test_two_starts_at_once_and_a_cancelled_one_leave_nothing(driver, bench):
    launches = [bench.launch(publish=(PublishedPort(guest_port=80, host_port=free_port()),)) for _ in range(4)]
    for guest in await asyncio.gather(*(driver.start(launch) for launch in launches)):
        await bench.keep(guest).kill()
    launch = bench.launch()
    starting = asyncio.create_task(driver.start(launch))
    await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert list(launch.run_directory.iterdir()) == []
    assert not subprocess.run(["pgrep", "-f", launch.vm], capture_output=True).stdout

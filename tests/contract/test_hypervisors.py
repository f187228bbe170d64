"""What every hypervisor driver promises, checked on the fake and on every real one that this host can run."""

import asyncio
import fcntl
import os
import re
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors import ports
from nacre.agent.hypervisors.base import GuestState, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch, UserNic
from nacre.agent.hypervisors.lifecycle import RELEASE_S
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.vms import ExitReason, PublishedPort, TransportProtocol
from support.machines import Watch, printed, ready
from support.patience import within
from support.platform import free_port
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def leftovers(launch: Launch) -> list[str]:
    return sorted(path.name for path in launch.run_directory.iterdir())


async def said(path: Path, word: str) -> bool:
    """Have the guest's shell say a word: it comes back twice, as the echo of the typing and as the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    seen = b""
    try:
        async with within(20):
            writer.write(f"\necho {word}\n".encode())
            while seen.count(word.encode()) < 2:
                seen += await reader.read(4096)
    finally:
        writer.close()
    return True


async def fetch(port: int) -> str:
    """A page from the guest, as soon as it serves one."""

    async def once() -> str:
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"GET / HTTP/1.0\r\n\r\n")
                answer = (await reader.read()).decode()
                writer.close()
        except (OSError, TimeoutError):
            return ""
        return answer

    return await until(once, timeout=60)


async def test_the_probe_says_what_works(lab):
    info = await lab.driver.probe()
    assert info.name == lab.driver.name
    assert info.version
    assert info.accelerator
    assert "q35" in info.machines


async def test_a_guest_boots_serves_a_page_talks_on_its_console_and_is_killed_without_a_trace(lab):
    ports_of_host = (PublishedPort(guest_port=80, host_port=free_port()),) if lab.publishes else ()
    launch, guest, watch = await lab.started(publish=ports_of_host)
    assert await guest.state() is GuestState.RUNNING
    assert processes.is_alive(guest.handle.pid, guest.handle.start_time)
    assert os.getsid(guest.handle.pid) == guest.handle.pid
    await ready(guest)
    for port in ports_of_host:
        assert "hello" in (await fetch(port.host_port)).lower()
    assert await said(guest.console_socket, "forty-two")
    await guest.kill()
    assert await guest.state() is GuestState.GONE
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.KILLED
    await watch.end()
    assert not processes.is_alive(guest.handle.pid, guest.handle.start_time)
    assert leftovers(launch) == []
    ports.check_free(ports_of_host)
    await guest.kill()


async def test_who_has_no_user_mode_network_says_so_and_starts_nothing(lab):
    if lab.publishes:
        pytest.skip(f"{lab.driver.name} has one")
    launch = lab.launch(nics=(UserNic(id="nic0", mac="52:4e:00:00:00:01"),))
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(launch)
    assert caught.value.code == "nic_unsupported"
    assert caught.value.failure_class is FailureClass.PERMANENT
    assert caught.value.hint
    assert leftovers(launch) == []


async def test_the_power_button_stops_a_guest_and_it_counts_as_stopped(lab):
    launch, guest, watch = await lab.started()
    await ready(guest)
    await guest.shutdown()
    await watch.until(GuestState.SHUT_DOWN)
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.STOPPED
    await watch.end()
    assert leftovers(launch) == []


async def test_a_guest_that_powered_off_keeps_its_process_until_that_is_on_record(lab):
    if not lab.lingers:
        pytest.skip(f"{lab.driver.name} ends with its guest, and has that on record itself")
    _, guest, watch = await lab.started()
    watch.releases = False
    await ready(guest)
    await guest.shutdown()
    await watch.until(GuestState.SHUT_DOWN)
    assert await guest.state() is GuestState.SHUT_DOWN
    assert processes.is_alive(guest.handle.pid, guest.handle.start_time)
    at = time.monotonic()
    await guest.release()
    await watch.until(GuestState.GONE)
    assert time.monotonic() - at < RELEASE_S
    await watch.end()


async def test_a_guest_that_powers_itself_off_is_no_crash(lab):
    _, guest, watch = await lab.started()
    await ready(guest)
    reader, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(f"\n{lab.off}\n".encode())
    gone = await watch.until(GuestState.GONE)
    assert gone.exit_reason is ExitReason.GUEST_SHUTDOWN
    writer.close()
    del reader


async def test_a_killed_process_is_seen_at_once_as_a_crash(lab):
    launch, guest, watch = await lab.started()
    at = time.monotonic()
    os.kill(guest.handle.pid, signal.SIGKILL)
    gone = await watch.until(GuestState.GONE)
    assert time.monotonic() - at < 5
    assert gone.exit_reason is ExitReason.CRASHED
    assert "SIGKILL" in gone.detail
    assert await guest.state() is GuestState.GONE
    assert leftovers(launch) == []


async def test_reset_boots_the_same_process_again(lab):
    if not lab.resets:
        pytest.skip(f"{lab.driver.name} offers no reset")
    _, guest, _ = await lab.started()
    await ready(guest)
    await guest.reset()
    await ready(guest, times=2)
    assert await guest.state() is GuestState.RUNNING


async def test_pause_and_resume_may_be_repeated_and_are_told(lab):
    _, guest, watch = await lab.started()
    await ready(guest)
    for _ in range(2):
        await guest.pause()
        assert await guest.state() is GuestState.PAUSED
    await watch.until(GuestState.PAUSED)
    for _ in range(2):
        await guest.resume()
        assert await guest.state() is GuestState.RUNNING
    await watch.until(GuestState.RUNNING)
    assert await said(guest.console_socket, "awake")


async def test_a_paused_guest_can_be_killed(lab):
    _, guest, watch = await lab.started()
    await guest.pause()
    await guest.kill()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.KILLED


@pytest.mark.parametrize("protocol", list(TransportProtocol))
@pytest.mark.parametrize("holder", ["127.0.0.1", "0.0.0.0"])
async def test_a_used_port_is_refused_by_name_and_nothing_is_left(lab, protocol, holder):
    kind = socket.SOCK_STREAM if protocol is TransportProtocol.TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as stranger:
        stranger.bind((holder, 0))
        if kind is socket.SOCK_STREAM:
            stranger.listen()
        number = stranger.getsockname()[1]
        launch = lab.launch(publish=(PublishedPort(guest_port=80, host_port=number, protocol=protocol),))
        with pytest.raises(DriverError) as caught:
            await lab.driver.start(launch)
    assert caught.value.code == "port_in_use"
    assert str(number) in caught.value.message
    assert caught.value.hint
    assert leftovers(launch) == []


async def test_a_port_of_another_guest_is_refused(lab):
    port = PublishedPort(guest_port=53, host_port=free_port(), protocol=TransportProtocol.UDP)
    await lab.started(publish=(port,))
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(lab.launch(publish=(port,)))
    assert caught.value.code == "port_in_use"


async def test_an_address_of_elsewhere_is_refused(lab):
    port = PublishedPort(guest_port=80, host_port=free_port(), host_address="203.0.113.1")
    with pytest.raises(DriverError) as caught:
        await lab.driver.start(lab.launch(publish=(port,)))
    assert caught.value.code == "address_not_here"


async def test_the_lock_lives_as_long_as_the_process(lab):
    launch, guest, _ = await lab.started()
    os.close(launch.lock_fd)
    lab.locks.remove(launch.lock_fd)
    lock = os.open(launch.directory / "lock", os.O_RDWR)
    lab.locks.append(lock)
    with pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    await guest.kill()
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


async def test_detaching_leaves_the_guest_alone_and_it_can_be_adopted(lab):
    launch, guest, _ = await lab.started()
    await ready(guest)
    await guest.detach()
    assert processes.is_alive(guest.handle.pid, guest.handle.start_time)
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    watch = Watch(again)
    assert again.handle == guest.handle
    assert await again.state() is GuestState.RUNNING
    await again.shutdown()
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.STOPPED
    assert await lab.driver.adopt(launch, guest.handle) is None


async def test_a_guest_without_a_record_is_found_by_its_sockets(lab):
    launch, guest, _ = await lab.started()
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, None))
    assert again is not None
    assert (again.handle.pid, again.handle.start_time) == (guest.handle.pid, guest.handle.start_time)
    await again.kill()
    assert await lab.driver.adopt(launch, None) is None


async def test_what_is_not_the_guest_is_not_adopted(lab):
    launch, guest, _ = await lab.started()
    await guest.detach()
    for wrong in (
        replace(guest.handle, boot_id="another-boot"),
        replace(guest.handle, start_time=guest.handle.start_time + 1),
        Handle(pid=1 << 30, start_time=1, boot_id=guest.handle.boot_id),
    ):
        assert await lab.driver.adopt(launch, wrong) is None
    stranger = replace(launch, vm=lab.launch().vm)
    assert await lab.driver.adopt(stranger, None) is None
    assert processes.is_alive(guest.handle.pid, guest.handle.start_time)


async def test_a_power_off_while_the_agent_was_away_is_told_from_a_crash(lab):
    launch, guest, _ = await lab.started()
    await ready(guest)
    await guest.detach()
    await lab.type_unattended(launch, guest, f"\n{lab.off}\n")
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    watch = Watch(again)
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.GUEST_SHUTDOWN
    assert leftovers(launch) == []


@pytest.mark.parametrize("guarded", [False, True])
async def test_a_guest_survives_the_sudden_death_of_the_agent(lab, guarded):
    """A process that starts a guest and is killed at once; another one adopts the guest."""
    launch = lab.launch(lease=lab.lease() if guarded else None)
    code = f"""
import asyncio, os, signal
from dataclasses import replace
from pathlib import Path
from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.base import *
from nacre.agent.hypervisors.launch import *
from nacre.model.hardware import *
from nacre.model.vms import *
launch = {launch!r}
async def main():
    driver = registry.load({lab.driver.name!r}, Path({str(lab.root / "state")!r}))
    guest = await driver.start(launch)
    print(guest.handle.pid, guest.handle.start_time, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
""".replace("PosixPath", "Path")
    code = re.sub(r"<(\w+\.\w+): '[\w-]*'>", r"\1", code)  # enumerations do not read what they write
    agent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE, pass_fds=[launch.lock_fd], start_new_session=True
    )
    out, _ = await agent.communicate()
    assert agent.returncode == -signal.SIGKILL
    pid, started = map(int, out.split())
    handle = Handle(pid=pid, start_time=started, boot_id=processes.boot_id())
    guest = lab.keep(await lab.driver.adopt(launch, handle))
    watch = Watch(guest)
    await ready(guest)
    assert (guest.guard is not None) is guarded
    at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert (await watch.until(GuestState.GONE)).exit_reason is ExitReason.CRASHED
    assert time.monotonic() - at < 5


async def test_the_console_log_grows_from_life_to_life_even_if_it_is_cut(lab):
    launch, guest, _ = await lab.started()
    await ready(guest)
    os.truncate(guest.console_log, 0)
    assert await said(guest.console_socket, "kept")
    await until(lambda: "kept" in printed(guest))
    assert "\0" not in printed(guest)
    await guest.kill()
    again = lab.keep(await lab.driver.start(launch))
    await ready(again)
    assert "kept" in printed(again)


async def test_a_silent_process_is_an_error_with_a_hint_and_can_still_be_killed(lab, monkeypatch):
    _, guest, _ = await lab.started()
    os.kill(guest.handle.pid, signal.SIGSTOP)
    monkeypatch.setattr(f"{type(guest).__module__}._ANSWER_S", 0.2)
    with pytest.raises(DriverError) as caught:
        await guest.state()
    assert caught.value.code == "hypervisor_silent"
    assert caught.value.hint
    await guest.kill()
    assert await guest.state() is GuestState.GONE


async def test_no_descriptors_are_leaked(lab):
    _, guest, _ = await lab.started()
    await guest.kill()
    before = descriptors()
    for _ in range(3):
        _, guest, watch = await lab.started()
        await guest.kill()
        await watch.end()
    await until(lambda: descriptors() <= before + 3)  # three locks, kept by the test

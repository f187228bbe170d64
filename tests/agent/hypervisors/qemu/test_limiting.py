"""Limits of NICs on taps, with a real QEMU, a real guest and the kernel of this host."""

import functools
import re
import socket
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors import traffic
from nacre.agent.hypervisors.abilities import CanLimit
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import TapNic, UserNic
from nacre.agent.hypervisors.traffic import Found, waiting_line
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.hardware import NO_LIMITS, NicOptions, RateLimits, TokenBucket
from nacre.model.units import MIB
from support import netns
from support.machines import Watch
from support.qemu_bench import QemuBench, qemu_bench
from support.waiting import until

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(bool(netns.hindrance()), reason=netns.hindrance()),
]

SLOW = RateLimits(bandwidth=TokenBucket(size=MIB))
SLOWER = RateLimits(bandwidth=TokenBucket(size=64 << 10))
BOTH = Found(receive=MIB, send=64 << 10)
TAP = TapNic(
    id="nic1",
    mac="52:4e:00:00:00:98",
    device="tap1",
    options=NicOptions(receive_limits=SLOW, send_limits=SLOWER, mtu=1400),
)


def scenario(body: Callable[[QemuBench], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Run a test in a network of its own, with a tap in it."""

    async def on_a_bench() -> None:
        netns.make_tap("tap1", "192.0.2.1/24")
        async with qemu_bench() as lab:
            await body(lab)

    # Not `functools.wraps`: pytest would look for a fixture called `lab`.
    functools.update_wrapper(test := lambda: netns.in_own_network(on_a_bench), body)
    del test.__wrapped__  # type: ignore[attr-defined]
    return test


def left() -> set[str]:
    return {name for _, name in socket.if_nameindex() if name.startswith("ncl-")}


def sent_through(device: str) -> int:
    """How many packets have gone through the bucket of a device."""
    said = netns.run_in_it("tc", "-s", "qdisc", "show", "dev", device, "root")
    assert "tbf" in said
    match = re.search(r"Sent \d+ bytes (\d+) pkt", said)
    assert match is not None
    return int(match[1])


@scenario
async def test_limits_are_there_before_the_guest_runs_and_go_when_it_ends(lab: QemuBench) -> None:
    launch = lab.launch(nics=(UserNic(id="nic0", mac="52:4e:00:00:00:01"), TAP))
    guest = lab.keep(await lab.driver.start(launch))
    watch = Watch(guest)
    assert await traffic.look("tap1") == BOTH
    await guest.kill()
    await watch.end()
    assert (await traffic.look("tap1"), left()) == (Found(), set())


@scenario
async def test_a_guest_without_limits_frees_the_tap_of_those_of_another(lab: QemuBench) -> None:
    await traffic.limit("tap1", SLOW, SLOW)
    lab.keep(await lab.driver.start(lab.launch(nics=(replace(TAP, options=NicOptions()),))))
    assert (await traffic.look("tap1"), left()) == (Found(), set())


@scenario
async def test_packets_of_a_guest_go_through_its_limits_which_change_and_go_with_the_nic(lab: QemuBench) -> None:
    guest, shell = await lab.booted(lab.tiny())
    assert isinstance(guest, CanLimit)
    for _ in range(2):
        await guest.attach_nic(TAP)  # type: ignore[attr-defined]
    assert await traffic.look("tap1") == BOTH
    await shell.until("cat /sys/class/net/eth1/address", TAP.mac)
    await shell.run("ip link set eth1 up; ip addr add 192.0.2.2/24 dev eth1")
    await shell.until("ping -c 1 -W 2 192.0.2.1", " 0% packet loss")
    received, sent = sent_through("tap1"), sent_through(waiting_line("tap1"))
    assert received > 0
    assert sent > 0
    for _ in range(2):
        await guest.limit_nic("nic1", SLOWER, SLOW)
    assert await traffic.look("tap1") == Found(receive=64 << 10, send=MIB)
    await shell.until("ping -c 1 -W 2 192.0.2.1", " 0% packet loss")
    assert sent_through("tap1") > received  # the same bucket, with other limits
    assert sent_through(waiting_line("tap1")) > sent
    await guest.limit_nic("nic1", NO_LIMITS, NO_LIMITS)
    assert (await traffic.look("tap1"), left()) == (Found(), set())
    await shell.until("ping -c 1 -W 2 192.0.2.1", " 0% packet loss")
    await guest.limit_nic("nic1", SLOW, SLOWER)
    for _ in range(2):
        await guest.detach_nic("nic1", 20)  # type: ignore[attr-defined]
    assert (await traffic.look("tap1"), left()) == (Found(), set())


@scenario
async def test_limits_outlive_the_agent_and_are_changed_by_the_next(lab: QemuBench) -> None:
    launch = lab.launch(nics=(UserNic(id="nic0", mac="52:4e:00:00:00:01"), TAP))
    guest = await lab.driver.start(launch)
    await guest.detach()
    assert await traffic.sweep() == []
    assert await traffic.look("tap1") == BOTH
    again = lab.keep(await lab.driver.adopt(replace(launch, nics=()), guest.handle))  # type: ignore[arg-type]
    assert isinstance(again, CanLimit)
    await again.limit_nic("nic1", SLOWER, NO_LIMITS)
    assert (await traffic.look("tap1"), left()) == (Found(receive=64 << 10), set())
    for name, code in (("nic0", "nic_limits_unsupported"), ("nic7", "nic_unknown")):
        with pytest.raises(DriverError) as caught:
            await again.limit_nic(name, SLOW, NO_LIMITS)
        assert (caught.value.code, caught.value.failure_class) == (code, FailureClass.PERMANENT)
    watch = Watch(again)
    await again.kill()
    await watch.end()
    assert (await traffic.look("tap1"), left()) == (Found(), set())


@scenario
async def test_what_a_guest_leaves_that_ended_without_an_agent_is_swept(lab: QemuBench) -> None:
    launch = lab.launch(nics=(TAP,))
    guest = await lab.driver.start(launch)
    await guest.detach()
    assert await processes.kill(guest.handle.pid, guest.handle.start_time)
    assert await lab.driver.adopt(launch, guest.handle) is None
    assert await traffic.look("tap1") == BOTH

    async def is_idle() -> bool:
        return Path("/sys/class/net/tap1/carrier").read_text().strip() == "0"

    await until(is_idle)
    assert await traffic.sweep() == [waiting_line("tap1")]
    assert (await traffic.look("tap1"), left()) == (Found(), set())


@scenario
async def test_a_start_that_fails_leaves_no_limits(lab: QemuBench) -> None:
    broken = lab.launch(nics=(TAP,), kernel=lab.root / "no-such-kernel")
    with pytest.raises(DriverError):
        await lab.driver.start(broken)
    assert (await traffic.look("tap1"), left()) == (Found(), set())
    two = (TAP, replace(TAP, id="nic2", device="tap1"))
    with pytest.raises(DriverError):  # one tap for two NICs
        await lab.driver.start(lab.launch(nics=two))
    assert (await traffic.look("tap1"), left()) == (Found(), set())

"""Limits of taps: what the kernel is told, that it keeps it, and that nothing of it is left."""

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine

import pytest

from nacre.agent.hypervisors import traffic
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.traffic import Bucket, Found, bucket, check, orders, waiting_line
from nacre.model.convergence import FailureClass
from nacre.model.hardware import NO_LIMITS, RateLimits, TokenBucket
from nacre.model.units import GIB, MIB
from support import netns

SLOW = RateLimits(bandwidth=TokenBucket(size=MIB))
SLOWER = RateLimits(bandwidth=TokenBucket(size=1000, refill_ms=100, burst=500))
PACKETS = RateLimits(operations=TokenBucket(size=10))
LINE = waiting_line("tap0")

here = pytest.mark.skipif(bool(netns.hindrance()), reason=netns.hindrance())


def inside(work: Callable[[], Coroutine[None, None, None]]) -> None:
    netns.in_own_network(work)


def devices() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def ours() -> set[str]:
    return {name for name in devices() if name.startswith("ncl")}


def test_a_bucket_holds_what_was_asked_and_one_packet_at_least() -> None:
    assert bucket(TokenBucket(size=MIB, refill_ms=500, burst=7)) == Bucket(
        rate=2 * MIB, depth=MIB + 7, queue=2 * MIB // 10
    )
    assert bucket(TokenBucket(size=10)) == Bucket(rate=10, depth=1518, queue=128 << 10)
    least = bucket(TokenBucket(size=1, refill_ms=3_600_000), mtu=9000)
    assert least is not None
    assert (least.rate, least.depth) == (1, 9018)
    assert bucket(None) is None


def test_the_name_of_a_line_follows_from_the_taps_and_fits() -> None:
    names = {waiting_line(f"nacre-tap{number}") for number in range(1000)}
    assert len(names) == 1000
    assert all(len(name) < 16 and name.startswith("ncl-") for name in names)
    assert waiting_line("tap0") == LINE


@pytest.mark.parametrize(
    ("receive", "send", "code"),
    [
        (PACKETS, NO_LIMITS, "nic_packet_limits_unsupported"),
        (SLOW, PACKETS, "nic_packet_limits_unsupported"),
        (RateLimits(bandwidth=TokenBucket(size=4 * GIB)), NO_LIMITS, "nic_limit_too_deep"),
        (NO_LIMITS, RateLimits(bandwidth=TokenBucket(size=MIB, refill_ms=300_000)), "nic_limit_too_deep"),
    ],
)
def test_what_the_kernel_does_not_keep_is_refused_for_good(receive: RateLimits, send: RateLimits, code: str) -> None:
    with pytest.raises(DriverError) as caught:
        check("nic0", receive, send)
    assert (caught.value.code, caught.value.failure_class) == (code, FailureClass.PERMANENT)
    assert caught.value.hint


def test_what_it_keeps_is_not() -> None:
    check("nic0", SLOW, SLOWER)
    check("nic0", NO_LIMITS, NO_LIMITS)


def test_nothing_is_done_where_nothing_is_wanted_or_there() -> None:
    assert orders("tap0", Found(), None, None) == []
    one = Bucket(rate=1, depth=2, queue=3)
    assert orders("tap0", Found(), one, None) == ["qdisc replace dev tap0 root tbf rate 1bps burst 2b limit 3b"]
    assert orders("tap0", Found(receive=1, send=1), None, None) == [
        "qdisc del dev tap0 root",
        "qdisc del dev tap0 ingress",
    ]


@here
@pytest.mark.host
def test_a_tap_is_limited_and_changed_and_freed() -> None:
    async def scenario() -> None:
        netns.make_tap("tap0")
        for _ in range(2):
            await traffic.limit("tap0", SLOW, SLOWER)
            assert await traffic.look("tap0") == Found(receive=MIB, send=10_000)
        assert ours() == {LINE}
        await traffic.limit("tap0", SLOWER, SLOW)
        assert await traffic.look("tap0") == Found(receive=10_000, send=MIB)
        await traffic.limit("tap0", NO_LIMITS, SLOW)
        assert await traffic.look("tap0") == Found(send=MIB)
        await traffic.limit("tap0", SLOW, NO_LIMITS)
        assert await traffic.look("tap0") == Found(receive=MIB)
        assert ours() == set()
        await traffic.limit("tap0", SLOW, SLOW)
        for _ in range(2):
            await traffic.clear("tap0")
            assert (await traffic.look("tap0"), ours()) == (Found(), set())

    inside(scenario)


@here
@pytest.mark.host
def test_what_broke_off_half_way_is_completed_or_removed() -> None:
    async def scenario() -> None:
        netns.make_tap("tap0")
        netns.run_in_it("ip", "link", "add", LINE, "type", "ifb")
        await traffic.limit("tap0", NO_LIMITS, SLOW)
        assert await traffic.look("tap0") == Found(send=MIB)
        netns.remove_link(LINE)  # what leads to it leads nowhere
        await traffic.limit("tap0", NO_LIMITS, SLOW)
        assert await traffic.look("tap0") == Found(send=MIB)
        netns.run_in_it("tc", "qdisc", "del", "dev", "tap0", "ingress")
        assert await traffic.look("tap0") == Found()
        await traffic.clear("tap0")
        assert ours() == set()

    inside(scenario)


@here
@pytest.mark.host
def test_the_lines_of_taps_that_are_gone_or_unused_are_swept_and_no_others() -> None:
    async def scenario() -> None:
        for name in ("used", "unused", "gone"):
            netns.make_tap(name)
        with netns.opened_tap("used"):
            for name in ("used", "unused", "gone"):
                await traffic.limit(name, SLOW, SLOW)
            netns.remove_link("gone")
            await traffic.clear("gone")
            netns.run_in_it("ip", "link", "add", "nclp0", "type", "ifb")  # no process has this number
            netns.run_in_it("ip", "link", "add", f"nclp{os.getpid()}", "type", "ifb")
            netns.run_in_it("ip", "link", "add", waiting_line("another"), "type", "ifb")
            netns.run_in_it("ip", "link", "add", "mine", "type", "ifb")
            swept = await traffic.sweep()
            assert set(swept) == {waiting_line("unused"), waiting_line("another"), "nclp0"}
            assert ours() == {waiting_line("used"), f"nclp{os.getpid()}"}
            assert "mine" in devices()
            assert await traffic.look("used") == Found(receive=MIB, send=MIB)
            assert await traffic.look("unused") == Found()
            assert await traffic.sweep() == []

    inside(scenario)


@here
@pytest.mark.host
def test_this_host_limits_and_trying_it_leaves_nothing() -> None:
    async def scenario() -> None:
        netns.run_in_it("ip", "link", "add", f"nclp{os.getpid()}", "type", "ifb")  # an earlier try was cut short
        assert await traffic.obstacle() == ""
        assert ours() == set()

    inside(scenario)


@here
@pytest.mark.host
def test_a_tap_that_is_not_there_is_not_limited_and_leaves_nothing() -> None:
    async def scenario() -> None:
        with pytest.raises(DriverError) as caught:
            await traffic.limit("nowhere", SLOW, SLOW)
        assert caught.value.code == "nic_limits_failed"
        assert ours() == set()

    inside(scenario)


def test_a_host_without_the_tools_says_which_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    why = asyncio.run(traffic.obstacle())
    assert "ip and tc are not installed" in why
    with pytest.raises(DriverError) as caught:
        asyncio.run(traffic.limit("lo", SLOW, NO_LIMITS))
    assert (caught.value.code, caught.value.failure_class) == ("nic_limits_unavailable", FailureClass.BLOCKED)
    assert why in caught.value.message
    asyncio.run(traffic.limit("lo", NO_LIMITS, NO_LIMITS))


@pytest.mark.host
@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to give it up")
def test_an_agent_that_may_not_administer_networks_says_so() -> None:
    program = "import asyncio; from nacre.agent.hypervisors import traffic; print(asyncio.run(traffic.obstacle()))"
    assert "CAP_NET_ADMIN" in netns.without_capability("net_admin", program)

"""What limits of NICs let through: a real guest on a tap, in a network of its own on this host. Needs root."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import replace

from bench.results import Result
from nacre.agent.hypervisors.launch import TapNic
from nacre.model.hardware import NicOptions, RateLimits, TokenBucket
from support import netns
from support.patience import within
from support.qemu_bench import QemuBench, qemu_bench
from support.shells import Shell

RATES = (8, 20, 40)
"""In Mbit/s."""
LAST_S = 8.0
"""How long bytes are counted under each limit, after what the bucket held at first has gone."""
SETTLE_S = 3.0
_HOST, _GUEST = "192.0.2.1", "192.0.2.2"
_HEADERS = 14 + 20 + 32
"""Of Ethernet, IPv4 and TCP with time stamps."""


def limits() -> Iterator[Result]:
    """Send and receive in a guest under limits that change while it runs."""
    errors = netns.in_own_network(under_limits)
    yield Result(
        name="limits.network.error_pct",
        value=max(errors.values()),
        unit="%",
        better="lower",
        reference="at most 10 % off: " + ", ".join(f"{name} {error:.1f} %" for name, error in errors.items()),
        samples=list(errors.values()),
        how=f"one TCP connection of a guest on a tap for {LAST_S:.0f} s under each limit, {SETTLE_S:.0f} s after it "
        "began: what the other end has acknowledged or got, with headers; the largest deviation",
    )


async def under_limits() -> dict[str, float]:
    """How far off each limit was, in per cent."""
    netns.make_tap("tap0", f"{_HOST}/24")
    errors: dict[str, float] = {}
    async with qemu_bench() as bench:
        shell, guest = await on_a_tap(bench)
        for rate in RATES:
            wanted = rate * 1_000_000 // 8
            limit = RateLimits(bandwidth=TokenBucket(size=wanted))
            await guest.limit_nic("nic0", limit, limit)  # type: ignore[attr-defined]
            for way in ("receive", "send"):
                errors[f"{way} {rate} Mbit/s"] = abs(await speed(shell, way) / wanted - 1) * 100
    return errors


async def on_a_tap(bench: QemuBench) -> tuple[Shell, object]:
    """A guest that has booted with a limited NIC, and its shell."""
    slow = RateLimits(bandwidth=TokenBucket(size=100_000))
    options = NicOptions(receive_limits=slow, send_limits=slow)
    nic = TapNic(id="nic0", mac="52:4e:00:00:00:01", device="tap0", options=options)
    guest, shell = await bench.booted(replace(bench.tiny(), nics=(nic,)))
    await shell.run(f"ip link set eth0 up; ip addr flush dev eth0; ip addr add {_GUEST}/24 dev eth0")
    await shell.until(f"ping -c 1 -W 2 {_HOST}", " 0% packet loss")
    return shell, guest


async def speed(shell: Shell, way: str) -> float:
    """Bytes per second that one connection carries, headers included."""
    loop = asyncio.get_running_loop()
    with socket.create_server((_HOST, 0)) as server:
        server.setblocking(False)
        source = "/dev/null" if way == "receive" else "/dev/zero"
        await shell.run(f"(nc {_HOST} {server.getsockname()[1]} < {source} > /dev/null 2>&1 &)")
        async with within(60):
            connection, _ = await loop.sock_accept(server)
    with connection:
        pump = asyncio.create_task(fill(connection) if way == "receive" else drain(connection))
        await asyncio.sleep(SETTLE_S)
        began, before = time.perf_counter(), carried(connection)
        await asyncio.sleep(LAST_S)
        seconds, after = time.perf_counter() - began, carried(connection)
        pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump
    await shell.run("killall nc; true")
    return (after - before) / seconds


def carried(connection: socket.socket) -> float:
    """How many bytes a connection has carried to its receiver, with their headers (linux/tcp.h, tcp_info)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    (segment,) = struct.unpack_from("=I", info, 16)
    acknowledged, received = struct.unpack_from("=QQ", info, 120)
    return (acknowledged + received) * (1 + _HEADERS / segment)


async def fill(connection: socket.socket) -> None:
    """Send for ever."""
    block = bytes(64 << 10)
    while True:
        await asyncio.get_running_loop().sock_sendall(connection, block)


async def drain(connection: socket.socket) -> None:
    """Receive until the other end closes."""
    while await asyncio.get_running_loop().sock_recv(connection, 256 << 10):
        pass


BENCHES = {("limits.network.error_pct",): limits}

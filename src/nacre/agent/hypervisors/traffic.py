"""Limits of what goes through a tap, kept by the host's kernel. Called by drivers whose hypervisor limits no NICs.

What the guest receives waits at the tap in a token bucket (tc-tbf(8)). What it sends comes into the host there, where
nothing waits; it is led through an `ifb` device of the tap's own, which has such a bucket. Both stay when the agent is
gone. The name of the `ifb` follows from the tap's, so that whatever is left of one is found. Needs CAP_NET_ADMIN.
"""

import asyncio
import hashlib
import os
import shutil
import socket
import sys
from base64 import b32encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import structlog

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass
from nacre.model.hardware import RateLimits, TokenBucket

MOST_BYTES = (1 << 32) - 1  # linux/pkt_sched.h: TCA_TBF_BURST is 32 bits
MOST_SECONDS = 250  # tc counts how long a bucket lasts in 32 bits of 64 ns

_PREFIX = "ncl-"
_PROBE = "nclp"
_FRAME = 18  # an Ethernet header with a VLAN tag
_MTU = 1500
_LEAST_QUEUE = 128 << 10  # two of the largest packets that a host hands to a tap in one piece
_QUEUE_S = 0.1
_NET_ADMIN = 12  # linux/capability.h
_ANSWER_S = 10.0

log = structlog.get_logger()

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """A limit in the kernel's terms."""

    rate: int
    """Bytes per second."""
    depth: int
    """Bytes that may go at once after a pause."""
    queue: int
    """Bytes that wait; what comes beyond is dropped, which is how senders learn of the limit."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a tap is held to, in bytes per second. None is no limit."""

    receive: int | None = None
    send: int | None = None


def check(nic: str, receive: RateLimits, send: RateLimits) -> None:
    """Raise DriverError for limits that the kernel does not keep. Pure."""
    for limits in (receive, send):
        if limits.operations is not None:
            raise _refused(
                "nic_packet_limits_unsupported",
                f"NIC {nic}: the node's kernel limits the bytes of a NIC, not its packets",
                "limit the bandwidth, or use cloud-hypervisor or firecracker",
            )
        made = bucket(limits.bandwidth)
        if made is not None and (made.depth > MOST_BYTES or made.depth > made.rate * MOST_SECONDS):
            raise _refused(
                "nic_limit_too_deep",
                f"NIC {nic}: a bucket of {made.depth} bytes is more than the node's kernel keeps",
                f"let size and burst together be less than 4 GiB, and refilled within {MOST_SECONDS} seconds",
            )


def bucket(limit: TokenBucket | None, mtu: int = _MTU) -> Bucket | None:
    """Return a limit as the kernel keeps it. Pure.

    A packet is never cut, so that the bucket holds one at least. A burst is there again after every long pause.
    """
    if limit is None:
        return None
    rate = max(1, round(limit.per_second))
    return Bucket(
        rate=rate,
        depth=max(limit.size + limit.burst, mtu + _FRAME),
        queue=min(MOST_BYTES, max(_LEAST_QUEUE, mtu + _FRAME, round(rate * _QUEUE_S))),
    )


def waiting_line(tap: str) -> str:
    """Name the `ifb` of a tap. Pure."""
    digest = hashlib.blake2b(tap.encode(), digest_size=6).digest()
    return _PREFIX + b32encode(digest).decode().rstrip("=").lower()


def orders(tap: str, found: Found, receive: Bucket | None, send: Bucket | None) -> list[str]:
    """Return what `tc` is to do when the `ifb` is there, if one is needed. Pure."""
    line, lines = waiting_line(tap), list[str]()
    if receive is not None:
        lines.append(f"qdisc replace dev {tap} root {_words(receive)}")
    elif found.receive is not None:
        lines.append(f"qdisc del dev {tap} root")
    if send is not None:
        lines += [f"qdisc replace dev {line} root {_words(send)}", f"qdisc replace dev {tap} ingress"]
        match = "protocol all prio 1 handle 800::800 u32 match u32 0 0"
        lines.append(f"filter replace dev {tap} ingress {match} action mirred egress redirect dev {line}")
    elif found.send is not None:
        lines.append(f"qdisc del dev {tap} ingress")
    return lines


async def limit(tap: str, receive: RateLimits, send: RateLimits, mtu: int | None = None) -> None:
    """Replace what may go through a tap, whoever uses it. May be repeated. Raises DriverError.

    `mtu` is what the guest was told, if anything. With a tap that is gone there is nothing to take limits from but
    what is left of it.
    """
    largest = mtu or _MTU
    if (receive.bandwidth, send.bandwidth) != (None, None):
        if why := _lacking():
            raise unavailable(why)
        largest = max(largest, (await _link(tap)).mtu)
    wanted = (bucket(receive.bandwidth, largest), bucket(send.bandwidth, largest))
    line = waiting_line(tap)
    found = await look(tap)
    if wanted[1] is not None and not _exists(line):
        await _run("ip", f"link add {line} type ifb", f"link set {line} up")
    if lines := orders(tap, found, *wanted):
        await _run("tc", *lines)
    if wanted[1] is None and _exists(line):
        await _run("ip", f"link del {line}")
    if lines and await look(tap) != Found(receive=_rate(wanted[0]), send=_rate(wanted[1])):
        raise _failed()


async def clear(tap: str) -> None:
    """Remove all limits of a tap, which may be gone. May be repeated. Raises DriverError."""
    await limit(tap, RateLimits(), RateLimits())


async def look(tap: str) -> Found:
    """Return what a tap is held to. Raises DriverError."""
    if not _exists(tap) or shutil.which("tc") is None:
        return Found()
    receive, line = await _rate_of(tap), waiting_line(tap)
    if not _exists(line):
        return Found(receive=receive)
    led = any(
        action.to_dev == line
        for one in await _ask(list[_Filter], "tc", "-j", "filter", "show", "dev", tap, "ingress")
        for action in one.options.actions
    )
    return Found(receive=receive, send=await _rate_of(line) if led else None)


async def sweep() -> list[str]:
    """Remove the `ifb` of every tap that is gone or that nobody has open, and return the names of those that went.

    Only before guests are started: what is set for a guest that begins is on a tap that its agent has opened.
    """
    names = [name for _, name in socket.if_nameindex()]
    taps = {waiting_line(name): name for name in names}
    removed: list[str] = []
    for name in names:
        try:
            if await _sweep(name, taps.get(name)):
                removed.append(name)
        except DriverError as error:
            log.warning("traffic.left", device=name, error=error.message, next="its next guest or agent removes it")
    return removed


async def _sweep(name: str, tap: str | None) -> bool:
    """Remove a device if it is ours and nobody needs it. `tap` is whose it is, if that is there."""
    if name.startswith(_PROBE):
        if _runs(name.removeprefix(_PROBE)):
            return False
    elif not name.startswith(_PREFIX):
        return False
    elif tap is not None:
        if not await _is_idle(tap):
            return False
        await clear(tap)
        return True
    await _run("ip", f"link del {name}")
    return True


async def obstacle() -> str:
    """Say why nothing can be limited on this host; empty if it can. Tries it with a device that is removed again."""
    if why := _lacking():
        return why
    name = f"{_PROBE}{os.getpid()}"
    try:
        if _exists(name):
            await _run("ip", f"link del {name}")
        await _run("ip", f"link add {name} type ifb")
        try:
            await _run("tc", *_trial(name))
        finally:
            await _run("ip", f"link del {name}")
    except DriverError as error:
        log.info("traffic.unavailable", error=error.message)
        return "the node's kernel lacks what limits NICs: tbf, ifb, ingress, mirred or u32"
    return ""


def unavailable(why: str) -> DriverError:
    """Return the error for limits that this host cannot keep, unless it is put right."""
    return DriverError(
        "nic_limits_unavailable",
        f"the node cannot limit what goes through a NIC: {why}",
        hint="put that right on the node, or leave the limits out",
        failure_class=FailureClass.BLOCKED,
    )


# What the kernel is asked and told


class _Options(msgspec.Struct, frozen=True):
    rate: int | float | None = None
    actions: tuple["_Action", ...] = ()


class _Action(msgspec.Struct, frozen=True):
    to_dev: str = ""


class _Filter(msgspec.Struct, frozen=True):
    options: _Options = _Options()


class _Discipline(msgspec.Struct, frozen=True):
    kind: str
    root: bool = False
    options: _Options = _Options()


class _Link(msgspec.Struct, frozen=True):
    flags: tuple[str, ...]
    mtu: int


def _lacking() -> str:
    if sys.platform != "linux":
        return "on Linux only"
    if missing := [name for name in ("ip", "tc") if shutil.which(name) is None]:
        return f"{' and '.join(missing)} are not installed (Debian, Ubuntu: apt-get install iproute2)"
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return "" if int(held.split()[1], 16) >> _NET_ADMIN & 1 else "the agent must run as root (CAP_NET_ADMIN)"


def _trial(name: str) -> list[str]:
    small = Bucket(rate=1 << 20, depth=1 << 16, queue=_LEAST_QUEUE)
    return [line.replace(waiting_line(name), name) for line in orders(name, Found(), None, small)]


def _runs(pid: str) -> bool:
    return Path("/proc", pid).exists()


def _exists(device: str) -> bool:
    try:
        return socket.if_nametoindex(device) > 0
    except OSError:
        return False


async def _rate_of(device: str) -> int | None:
    found = await _ask(list[_Discipline], "tc", "-j", "qdisc", "show", "dev", device)
    rates = (one.options.rate for one in found if one.root and one.kind == "tbf")
    rate = next(rates, None)
    return None if rate is None else int(rate)


async def _is_idle(tap: str) -> bool:
    """Whether nobody has a tap open. One that is down may be open or not, and is left alone."""
    flags = (await _link(tap)).flags
    return "UP" in flags and "LOWER_UP" not in flags


async def _link(device: str) -> _Link:
    (link,) = await _ask(list[_Link], "ip", "-j", "link", "show", "dev", device)
    return link


def _words(limit: Bucket) -> str:
    return f"tbf rate {limit.rate}bps burst {limit.depth}b limit {limit.queue}b"


def _rate(limit: Bucket | None) -> int | None:
    return None if limit is None else limit.rate


async def _run(program: str, *lines: str) -> None:
    await _call([program, "-batch", "-"], "".join(f"{line}\n" for line in lines))


async def _ask(form: type[list[_Answer]], *words: str) -> list[_Answer]:
    said = await _call(words, "")
    try:
        return msgspec.json.decode(said or b"[]", type=form)
    except msgspec.MsgspecError as error:
        log.warning("traffic.unreadable", words=words, error=str(error))
        raise _failed() from error


async def _call(words: Sequence[str], told: str) -> bytes:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(*words, stdin=pipe, stdout=pipe, stderr=pipe)
    except FileNotFoundError as error:
        raise unavailable(f"{words[0]} is not installed") from error
    try:
        async with asyncio.timeout(_ANSWER_S):
            said, complaint = await process.communicate(told.encode())
    except TimeoutError as error:
        raise _failed() from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = complaint.decode(errors="replace").strip()
        log.warning("traffic.refused", words=words, told=told, said=text[-500:])
        raise _failed()
    return said


def _failed() -> DriverError:
    return DriverError(
        "nic_limits_failed",
        "the node's kernel has not taken the limits of a NIC",
        hint="the agent's log on the node says what it said; it is tried again by itself",
    )


def _refused(code: str, message: str, hint: str) -> DriverError:
    return DriverError(code, message, hint=hint, failure_class=FailureClass.PERMANENT)

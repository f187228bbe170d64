"""What a guest's agent says about the guest, made into facts. `look` asks; the rest is pure.

All of it comes from the guest: lists are cut, texts made plain, what has another shape is left out.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from typing import cast

import msgspec

from nacre.agent.guest.qga import GuestAgent, plain
from nacre.errors import ConflictError, UnsupportedError
from nacre.model.guests import GuestAddress, GuestFilesystem, GuestInfo

MAX_ADDRESSES = 64
MAX_FILESYSTEMS = 32
BOOT_SLACK_S = 5.0
"""A boot time that is computed anew from the uptime differs by less than this."""
_TEXT = 255
_PSEUDO = frozenset({"tmpfs", "devtmpfs", "squashfs", "overlay", "iso9660"})
_PROC_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class GuestFigures:
    """How busy a guest is, as it says itself."""

    load_1m: float | None = None
    memory_available_bytes: int | None = None
    disk_used_bytes: int | None = None
    disk_total_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look into a guest."""

    info: GuestInfo
    figures: GuestFigures
    frozen: bool
    """Whether its file systems are frozen."""


async def look(agent: GuestAgent, nics: Mapping[str, str], now: datetime) -> Look:
    """Ask for everything that this agent offers. `nics` are the machine's, MAC to id. Raises NacreError."""
    about = _mapping(await agent.ask("guest-info"))
    offered = frozenset(_offered(about))
    if "guest-fsfreeze-status" in offered and await _asked(agent, "guest-fsfreeze-status") == "frozen":
        info = GuestInfo(agent_version=_text(about.get("version")), seen_at=now)
        return Look(info=info, figures=GuestFigures(), frozen=True)

    async def ask(command: str) -> object:
        return await _asked(agent, command) if command in offered else None

    system = _mapping(await ask("guest-get-osinfo"))
    filesystems = list(_filesystems(await ask("guest-get-fsinfo")))
    reads = "guest-file-open" in offered
    proc = {name: await _read(agent, f"/proc/{name}") if reads else "" for name in ("uptime", "loadavg", "meminfo")}
    info = GuestInfo(
        agent_version=_text(about.get("version")),
        hostname=_text(_mapping(await ask("guest-get-host-name")).get("host-name")),
        os=_text(system.get("pretty-name")) or _text(system.get("name")),
        kernel=_text(system.get("kernel-release")),
        addresses=tuple(_addresses(await ask("guest-network-get-interfaces"), nics)),
        filesystems=tuple(found for found, _used in filesystems),
        booted_at=_booted_at(proc["uptime"], now),
        seen_at=now,
    )
    totals = [(used, found.total_bytes) for found, used in filesystems if used is not None and found.total_bytes]
    figures = GuestFigures(
        load_1m=_first_number(proc["loadavg"]),
        memory_available_bytes=_available(proc["meminfo"]),
        disk_used_bytes=sum(used for used, _ in totals) if totals else None,
        disk_total_bytes=sum(total for _, total in totals) if totals else None,
    )
    return Look(info=info, figures=figures, frozen=False)


def settled(before: GuestInfo | None, now: GuestInfo) -> GuestInfo:
    """Return `before` if nothing has changed that is worth telling, else `now`. Pure."""
    if before is None:
        return now
    booted_at = now.booted_at
    if before.booted_at is not None and booted_at is not None:
        drift = abs((booted_at - before.booted_at).total_seconds())
        booted_at = before.booted_at if drift < BOOT_SLACK_S else booted_at
    same = msgspec.structs.replace(now, seen_at=before.seen_at, booted_at=booted_at)
    return before if same == before else msgspec.structs.replace(now, booted_at=booted_at)


async def _asked(agent: GuestAgent, command: str) -> object:
    """Ask for what is welcome and not needed: a refusal is as good as nothing."""
    try:
        return await agent.ask(command)
    except (ConflictError, UnsupportedError):
        return None


async def _read(agent: GuestAgent, path: str) -> str:
    try:
        handle = await agent.ask("guest-file-open", {"path": path, "mode": "r"})
        if not isinstance(handle, int):
            return ""
        try:
            said = _mapping(await agent.ask("guest-file-read", {"handle": handle, "count": _PROC_BYTES}))
        finally:
            await agent.ask("guest-file-close", {"handle": handle})
        return base64.b64decode(str(said.get("buf-b64", ""))).decode(errors="replace")
    except (ConflictError, UnsupportedError, binascii.Error):
        return ""


def _offered(about: Mapping[str, object]) -> Iterator[str]:
    for command in _list(about.get("supported_commands")):
        one = _mapping(command)
        if one.get("enabled") is True:
            yield str(one.get("name"))


def _addresses(said: object, nics: Mapping[str, str]) -> Iterator[GuestAddress]:
    count = 0
    for interface in map(_mapping, _list(said)):
        name, mac = _text(interface.get("name")), _text(interface.get("hardware-address")).lower()
        for entry in map(_mapping, _list(interface.get("ip-addresses"))):
            try:
                address = ip_address(str(entry.get("ip-address")).partition("%")[0])
            except ValueError:
                continue
            prefix = entry.get("prefix")
            if address.is_loopback or not isinstance(prefix, int) or not 0 <= prefix <= address.max_prefixlen:
                continue
            if count == MAX_ADDRESSES:
                return
            count += 1
            yield GuestAddress(address=str(address), prefix=prefix, interface=name, mac=mac, nic=nics.get(mac, ""))


def _filesystems(said: object) -> Iterator[tuple[GuestFilesystem, int | None]]:
    for entry in map(_mapping, _list(said)[:MAX_FILESYSTEMS]):
        kind = _text(entry.get("type"))
        if kind in _PSEUDO:
            continue
        total = _size(entry.get("total-bytes"))
        yield (
            GuestFilesystem(mountpoint=_text(entry.get("mountpoint")), type=kind, total_bytes=total),
            _size(entry.get("used-bytes")),
        )


def _booted_at(uptime: str, now: datetime) -> datetime | None:
    seconds = _first_number(uptime)
    return None if seconds is None else now - timedelta(seconds=min(seconds, 3e8))


def _first_number(text: str) -> float | None:
    try:
        number = float(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return None
    return number if 0 <= number < float("inf") else None


def _available(meminfo: str) -> int | None:
    for line in meminfo.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "MemAvailable:" and words[1].isdigit():
            return min(int(words[1]) << 10, 1 << 62)
    return None


def _mapping(value: object) -> Mapping[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[object]:
    return cast("list[object]", value) if isinstance(value, list) else []


def _text(value: object) -> str:
    return plain(value, _TEXT) if isinstance(value, str) else ""


def _size(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62 else None

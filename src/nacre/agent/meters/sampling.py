"""Measure one machine: its process by the kernel, its devices by its hypervisor, its inside by its guest's agent."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

from nacre.agent.guest.facts import GuestFigures
from nacre.agent.host.files import text
from nacre.agent.hypervisors.abilities import CanResize, DeviceCounters, GuestCounters, HasCounters
from nacre.agent.hypervisors.base import Guest
from nacre.agent.meters.samples import Sample
from nacre.agent.vms.machine import Machine
from nacre.errors import NacreError

ANSWER_S = 3.0
_PROC = Path("/proc")
_UTIME, _STIME, _START = 11, 12, 19
"""Fields 14, 15 and 22 of /proc/PID/stat, counted from the one behind the name (proc(5))."""
_NOTHING = GuestCounters()


async def sample(machine: Machine, at: int) -> Sample | None:
    """Return how a machine is now; None if it has no process."""
    guest = machine.guest
    if guest is None:
        return None
    process = of_process(guest.handle.pid, guest.handle.start_time)
    if process is None:
        return None
    cpu_ns, resident = process
    counters = _NOTHING if machine.frozen else await _counters(guest)
    figures = machine.inside.figures if machine.inside is not None else GuestFigures()
    return Sample(
        at=at,
        life=guest.handle.start_time,
        cpu_ns=cpu_ns,
        resident_bytes=resident,
        balloon_bytes=None if machine.frozen else await _balloon(guest),
        disk_read_bytes=_sum(counters.disks, "read_bytes"),
        disk_written_bytes=_sum(counters.disks, "written_bytes"),
        disk_reads=_sum(counters.disks, "reads"),
        disk_writes=_sum(counters.disks, "writes"),
        received_bytes=_sum(counters.nics, "read_bytes"),
        sent_bytes=_sum(counters.nics, "written_bytes"),
        received_packets=_sum(counters.nics, "reads"),
        sent_packets=_sum(counters.nics, "writes"),
        guest_load_milli=None if figures.load_1m is None else int(figures.load_1m * 1000),
        guest_available_bytes=figures.memory_available_bytes,
        guest_disk_used_bytes=figures.disk_used_bytes,
    )


def of_process(pid: int, start_time: int, proc: Path = _PROC) -> tuple[int, int] | None:
    """Return the CPU time in nanoseconds and the resident bytes of exactly this process; None if it is gone."""
    fields = text(proc / str(pid) / "stat").rpartition(")")[2].split()
    pages = text(proc / str(pid) / "statm").split()
    if len(fields) <= _START or len(pages) < 2 or int(fields[_START]) != start_time:
        return None
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), int(pages[1]) * os.sysconf("SC_PAGE_SIZE")


async def _counters(guest: Guest) -> GuestCounters:
    if not isinstance(guest, HasCounters):
        return _NOTHING
    try:
        async with asyncio.timeout(ANSWER_S):
            return await guest.counters()
    except (NacreError, OSError, TimeoutError):
        return _NOTHING  # a gap in a graph


async def _balloon(guest: Guest) -> int | None:
    if not isinstance(guest, CanResize):
        return None
    try:
        async with asyncio.timeout(ANSWER_S):
            return (await guest.sizes()).reclaimed_bytes
    except (NacreError, OSError, TimeoutError):
        return None


def _sum(devices: Iterable[DeviceCounters], name: str) -> int | None:
    counts = [int(getattr(device, name)) for device in devices]
    return sum(counts) if counts else None

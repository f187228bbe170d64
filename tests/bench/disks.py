"""What disks cost and what their limits let through, with real guests.

`image.start_20g_over_100m.ratio` needs about 45 GiB of free disk; NACRE_BENCH_IMAGE_GIB asks for a smaller large image.
"""

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.results import Result
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from nacre.agent.storage.base import BaseDisk
from nacre.agent.storage.directory import DirectoryStorage
from nacre.model.hardware import DiskOptions, RateLimits, TokenBucket
from nacre.model.images import Format
from nacre.model.units import GIB, MIB
from support.guests import tiny_image
from support.machines import Bench, ready
from support.shells import Shell

ROUNDS = 15
LARGE = int(os.environ.get("NACRE_BENCH_IMAGE_GIB", "20")) * GIB
SMALL = 100 * MIB
RATES = (2 * MIB, 8 * MIB, 24 * MIB)
OPERATIONS = (50, 200)
LAST_S = 6
"""How long a guest reads or writes under each limit."""
_BLOCK = 256 << 10
_PAGE = 4096


def start_from_images() -> Iterator[Result]:
    """Disks for new machines from two images that are on the node: made by turns, synced as always."""
    if shutil.disk_usage("/var/tmp").free < LARGE * 5 // 4:
        raise RuntimeError(f"this bench needs {LARGE * 5 // 4 // GIB} GiB free in /var/tmp; see NACRE_BENCH_IMAGE_GIB")
    samples: dict[int, list[float]] = {SMALL: [], LARGE: []}
    with TemporaryDirectory(dir="/var/tmp", prefix="nacre-bench-") as text:
        folder = Path(text)
        for size in samples:
            fill(folder / f"{size}.img", size)
        os.sync()
        for index in range(ROUNDS):
            for size, seconds in samples.items():
                seconds.append(asyncio.run(make(folder, folder / f"{size}.img", f"{size}-{index}")))
    ratios = [large / small for small, large in zip(samples[SMALL], samples[LARGE], strict=True)]
    yield Result(
        name="image.start_20g_over_100m.ratio",
        value=statistics.median(samples[LARGE]) / statistics.median(samples[SMALL]),
        unit="x",
        better="lower",
        reference=f"1: the same for both ({statistics.median(samples[SMALL]) * 1000:.1f} ms for 100 MiB)",
        samples=ratios,
        how=f"root disk of a new machine from a raw image of {LARGE // GIB} GiB (all of it allocated) over one of "
        "100 MiB, both in the node's cache; medians, by turns",
    )


def fill(path: Path, size: int) -> None:
    """A raw image with something in every block."""
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)


async def make(folder: Path, image: Path, name: str) -> float:
    """Seconds for a machine's disk."""
    place = folder / name
    place.mkdir()
    began = time.perf_counter()
    await DirectoryStorage().ensure(place, "root", base=BaseDisk(path=image, format=Format.RAW), size_bytes=None)
    return time.perf_counter() - began


def limits() -> Iterator[Result]:
    """Read and write in a guest under limits of bandwidth and of operations, changed while it runs."""
    errors = asyncio.run(under_limits())
    yield Result(
        name="limits.disk.error_pct",
        value=max(errors.values()),
        unit="%",
        better="lower",
        reference="at most 10 % off: " + ", ".join(f"{name} {error:.1f} %" for name, error in errors.items()),
        samples=list(errors.values()),
        how=f"dd with direct I/O in a real guest for about {LAST_S} s under each limit; the largest deviation",
    )


async def under_limits() -> dict[str, float]:
    """How far off each limit was, in per cent."""
    bench, image = Bench(), tiny_image()
    driver = QemuHypervisor(state_directory=bench.root / "state", candidates=())
    try:
        launch = bench.launch(kernel=image.kernel, initrd=image.initrd, kernel_args=image.kernel_args)
        path = launch.directory / "data.raw"
        with path.open("wb") as file:
            file.truncate(GIB)
        bucket = TokenBucket(size=RATES[0])
        disk = DiskFile(
            id="data", path=path, format="raw", options=DiskOptions(limits=RateLimits(bandwidth=bucket), direct=True)
        )
        launch = replace(launch, disks=(disk,))
        guest = bench.keep(await driver.start(launch))
        await ready(guest)
        shell = await Shell.open(guest.console_socket)
        await shell.run("umount /data; true")
        errors: dict[str, float] = {}
        for rate in RATES:
            await guest.limit_disk("data", RateLimits(bandwidth=TokenBucket(size=rate)))  # type: ignore[attr-defined]
            for way in ("read", "write"):
                speed = await measure(shell, way, _BLOCK, rate * LAST_S // _BLOCK)
                errors[f"{way} {rate // MIB} MiB/s"] = abs(speed / rate - 1) * 100
        for rate in OPERATIONS:
            await guest.limit_disk("data", RateLimits(operations=TokenBucket(size=rate)))  # type: ignore[attr-defined]
            speed = await measure(shell, "read", _PAGE, rate * LAST_S) / _PAGE
            errors[f"read {rate}/s"] = abs(speed / rate - 1) * 100
        shell.close()
        return errors
    finally:
        await bench.close()


async def measure(shell: Shell, way: str, block: int, count: int) -> float:
    """Bytes per second that go through, without what the bucket held at first."""
    where = "if=/dev/vda of=/dev/null iflag=direct" if way == "read" else "if=/dev/zero of=/dev/vda oflag=direct"
    command = f"dd {where} bs={block} count="
    await shell.run(f"{command}{max(4, count // 5)} 2>&1", timeout=120)  # what was saved up is used up
    began = time.perf_counter()
    printed = await shell.run(f"{command}{count} 2>&1", timeout=120)
    seconds = time.perf_counter() - began
    if f"{count}+0 records out" not in printed:
        raise RuntimeError(f"dd has failed: {printed}")
    return block * count / seconds


BENCHES = {("image.start_20g_over_100m.ratio",): start_from_images, ("limits.disk.error_pct",): limits}

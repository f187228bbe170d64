"""Imports whose process is killed at random moments: in the end the image is whole, and there is nothing more."""

import asyncio
import random
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from nacre.control.services import images
from nacre.control.services.checkpoints import create as checkpoint
from nacre.control.services.image_files import ImageDepot
from nacre.control.store.db import Database
from nacre.control.store.images import ImageRow
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock
from nacre.model.capabilities import Capability
from nacre.model.images import ImageState, Role
from nacre.model.units import GIB
from nacre.schema.checkpoints import CheckpointCreate
from nacre.schema.images import ArtifactSource, ImageCreate
from support import images as made
from support.cloud import able, by, cloud, make_image
from support.database import opened
from support.images import MIB
from support.waiting import until

pytestmark = pytest.mark.anyio

ROUNDS = 5
WORKER = Path(__file__).parents[2] / "support" / "image_worker.py"


async def start(url: str, data: Path, root: Path) -> Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", str(WORKER), url, str(data), str(root), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), 120) == b"working\n"
    return process


async def kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await asyncio.wait_for(process.communicate(), 10)


async def converters(folder: Path) -> list[int]:
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if process.info["cmdline"] and any(str(folder) in word for word in process.info["cmdline"][1:])
    ]


async def survived(
    db: Database, image: str, depot: ImageDepot, begin: Callable[[], Awaitable[Process]], chance: random.Random
) -> ImageRow:
    """Kill workers at random moments, and let the last one finish."""
    for _ in range(ROUNDS):
        worker = await begin()
        try:
            await asyncio.sleep(chance.uniform(0, 0.7))
        finally:
            await kill(worker)
    worker = await begin()
    try:
        row = await until(lambda: made.in_state(db, image, ImageState.READY), timeout=60)
        assert row is not None
        await until(lambda: [file.name for file in (depot.folder / image).iterdir()] == ["disk"])
    finally:
        await kill(worker)
    return row


@pytest.mark.host
async def test_an_import_survives_being_killed_at_any_moment(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    root.mkdir()
    depot = replace(ImageDepot.of(data, image_roots=(str(root),)), reserve_bytes=0)
    original = made.raw_disk(48 * MIB)
    path = made.converted(root, "vmdk", original)
    async with opened(database_url, SystemClock(), Wakes()) as db:
        source = ArtifactSource(role=Role.DISK, path=str(path))
        image = (await made.create(db, depot, source)).resource.id
        row = await survived(db, image, depot, lambda: start(database_url, data, root), random.Random(7))
    stored = depot.path(row.id, Role.DISK)
    assert row.artifacts[0].sha256 == made.sha256(stored.read_bytes())
    made.qemu_img("convert", "-O", "raw", str(stored), str(tmp_path / "out.raw"))
    assert (tmp_path / "out.raw").read_bytes() == original
    assert await converters(depot.folder) == []


@pytest.mark.host
async def test_a_disk_from_a_node_survives_being_killed_at_any_moment(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    root.mkdir()
    depot = replace(ImageDepot.of(data), reserve_bytes=0)
    disk = made.converted(root, "qcow2", made.raw_disk(48 * MIB)).rename(root / "node.qcow2").read_bytes()
    async with opened(database_url, SystemClock(), Wakes()) as db:
        platform = await cloud(db, told=able(Capability.DISK_SNAPSHOT, Capability.CHECKPOINT))
        async with db.write() as tx:
            await make_image(tx, platform.project, "disk", disk_bytes=GIB)
        await platform.running("web", image="disk")
        async with db.write() as tx:
            await checkpoint(tx, by("vm:checkpoint"), "web", CheckpointCreate(name="early"))
        await platform.converge()
        async with db.write() as tx:
            body = ImageCreate(name="golden", checkpoint="web/early")
            image = (await images.create(tx, by("image:create"), body, depot=depot)).resource.id
        row = await survived(db, image, depot, lambda: start(database_url, data, root), random.Random(11))
    assert depot.path(row.id, Role.DISK).read_bytes() == disk
    assert row.artifacts[0].sha256 == made.sha256(disk)

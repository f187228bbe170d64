"""How many placements a second become rows in PostgreSQL, on a fleet of 5 000 nodes with 50 000 machines."""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from sqlalchemy import insert, select, text

from bench.results import Result
from nacre.control.reconcilers.vms import Placer
from nacre.control.services import projects
from nacre.control.store.db import Database
from nacre.control.store.nodes import NodeRow, nodes
from nacre.control.store.vms import VmRow, vms
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock
from nacre.lib.limits import collect_rarely
from nacre.model.ids import ImageId, NodeId, ProjectId, VmId
from nacre.model.nodes import NodeState
from nacre.model.placement import AffinityTerm, Placement
from nacre.model.units import GIB
from nacre.model.vms import Desired, Phase, VmSpec
from support.cloud import facts, make_image
from support.database import Templates, opened
from support.postgres import cluster

NODES = 5_000
PLACED = 50_000
WAITING = 4_000
APART = 1_000
GROUP = 50
"""Machines of one service that must all be on different nodes."""
CHUNK = 1_000


@dataclass(frozen=True, kw_only=True)
class Site:
    """A large platform."""

    db: Database
    project: ProjectId
    image: ImageId
    nodes: list[NodeId]


def commits() -> Iterator[Result]:
    """Place machines that ask for nothing but room, and machines that must be apart from each other."""
    collect_rarely()  # as the program does
    with cluster() as server, TemporaryDirectory() as folder:

        async def measure() -> list[Result]:
            name = await Templates(Path(folder)).postgresql(server)
            async with opened(server.url(name), SystemClock(), Wakes()) as db:
                site = await large_site(db)
                return [await plain(site), await apart(site)]

        yield from asyncio.run(measure())


async def plain(site: Site) -> Result:
    """Four thousand machines of four sizes."""
    placer = Placer(site.db)
    await add_waiting(site, CHUNK, "warm", {}, Placement())
    warm_up = await timed(placer, CHUNK)
    await add_waiting(site, WAITING, "plain", {}, Placement())
    seconds = await timed(placer, WAITING)
    return Result(
        name="scheduler.commits.per_s",
        value=WAITING / seconds,
        unit="1/s",
        better="higher",
        reference="at least 1 000/s",
        samples=[CHUNK / warm_up, WAITING / seconds],
        how=f"{WAITING} waiting machines decided and committed by one Placer into PostgreSQL (fsync off) with {NODES} "
        f"nodes and {PLACED} placed machines, after {CHUNK} to warm up (first sample: includes reading the fleet); "
        f"{rss_mib():.0f} MiB resident afterwards, bench included",
    )


async def apart(site: Site) -> Result:
    """Services of fifty machines, each of which requires to be alone on its node."""
    placer = Placer(site.db)
    await add_waiting(site, 1, "warm-apart", {"app": "none"}, Placement())
    await timed(placer, 1)
    for service in range(APART // GROUP):
        labels = {"app": f"service-{service}"}
        rule = Placement(anti_affinity=(AffinityTerm(labels=labels),))
        await add_waiting(site, GROUP, f"apart-{service}", labels, rule)
    seconds = await timed(placer, APART)
    await check_apart(site)
    return Result(
        name="scheduler.anti_affinity.per_s",
        value=APART / seconds,
        unit="1/s",
        better="higher",
        reference="at least 250/s",
        samples=[APART / seconds],
        how=f"{APART} machines in groups of {GROUP}, each required to be on a node of its own; otherwise the same",
    )


async def timed(placer: Placer, count: int) -> float:
    """Seconds until `count` machines have been placed."""
    began = time.monotonic()
    while await placer.once() is not None:
        pass
    seconds = time.monotonic() - began
    async with placer._db.read() as rd:
        left = (await rd.connection.execute(text("SELECT count(*) FROM vms WHERE node IS NULL"))).scalar_one()
    assert left == 0, f"{left} of {count} wait"
    return seconds


async def check_apart(site: Site) -> None:
    """No two machines of one service share a node."""
    async with site.db.read() as rd:
        rows = (await rd.connection.execute(select(vms.c.labels, vms.c.node).where(vms.c.name.like("apart-%")))).all()
    places = [(row.labels["app"], row.node) for row in rows]
    assert len(places) == len(set(places)) == APART


async def large_site(db: Database) -> Site:
    """Fill an empty database."""
    async with db.write() as tx:
        project = (await projects.resolve(tx, "default")).id
        image = await make_image(tx, project)
        now, told = tx.now(), facts(cpus=32, memory_bytes=128 * GIB, disk_bytes=2000 * GIB)
        rows = [
            NodeRow(
                id=NodeId(tx.new_id("node")),
                name=f"node-{index}",
                state=NodeState.READY,
                labels={"rack": f"r{index % 100}", "disk": "ssd" if index % 2 else "hdd"},
                own_labels={},
                region=f"region-{index % 3}",
                zone=f"zone-{index % 9}",
                facts=told,
                key_fingerprint=f"key-{index}",
                created_at=now,
                updated_at=now,
            )
            for index in range(NODES)
        ]
        for start in range(0, NODES, CHUNK):
            await tx.connection.execute(insert(nodes), [vars(row) for row in rows[start : start + CHUNK]])
    site = Site(db=db, project=project, image=image, nodes=[row.id for row in rows])
    chance = random.Random(7)
    for start in range(0, PLACED, CHUNK):
        made = machines(site, CHUNK, f"old-{start}", {"app": f"app-{start}"}, Placement())
        at = [replace(row, node=chance.choice(site.nodes), fence=1, finalizers=["node"]) for row in made]
        await store(site, at)
    async with db.write() as tx:
        await tx.connection.execute(text("ANALYZE"))
    return site


async def add_waiting(site: Site, count: int, stem: str, labels: dict[str, str], placement: Placement) -> None:
    """Add machines that want a node."""
    await store(site, machines(site, count, stem, labels, placement))


def machines(site: Site, count: int, stem: str, labels: dict[str, str], placement: Placement) -> list[VmRow]:
    """Rows of machines without a node."""
    now = site.db.clock.now()
    spec = VmSpec(image=site.image, placement=placement)
    sizes = [replace_size(spec, cpus) for cpus in (1, 2, 4, 8)]
    return [
        VmRow(
            id=VmId(f"vm-{stem}-{index:06}"),
            project=site.project,
            name=f"{stem}-{index}",
            labels=labels,
            spec=sizes[index % 4],
            image=site.image,
            image_name="tiny",
            desired=Desired.RUNNING,
            generation=1,
            finalizers=[],
            reserved_cpus=sizes[index % 4].cpus,
            reserved_memory_bytes=sizes[index % 4].memory_bytes,
            reserved_disk_bytes=10 * GIB,
            phase=Phase.PENDING,
            since=now,
            created_at=now,
            updated_at=now,
        )
        for index in range(count)
    ]


def replace_size(spec: VmSpec, cpus: int) -> VmSpec:
    """The same with this many CPUs, and memory to match."""
    return VmSpec(image=spec.image, placement=spec.placement, cpus=cpus, memory_bytes=cpus * GIB)


async def store(site: Site, rows: list[VmRow]) -> None:
    """Insert machines."""
    async with site.db.write() as tx:
        for start in range(0, len(rows), CHUNK):
            await tx.connection.execute(insert(vms), [vars(row) for row in rows[start : start + CHUNK]])


def rss_mib() -> float:
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / (1 << 20)


BENCHES = {("scheduler.commits.per_s", "scheduler.anti_affinity.per_s"): commits}

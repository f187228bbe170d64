"""What thousands of nodes cost one control plane: joining, being there, and going missing.

The nodes are simulated by one process (`nacre-agent --simulate`) with real certificates and real TLS. For shorter runs:
NACRE_BENCH_NODES (numbers of nodes, separated by commas; the last is the one that counts), NACRE_BENCH_STEADY_S (how
long the last one is watched), NACRE_BENCH_DATABASE (`postgresql` for a server of its own, on the same host and without
fsync; else SQLite).
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.results import Result
from support.platform import Platform, platform
from support.postgres import cluster
from support.simulation import Fleet

SIZES = tuple(int(text) for text in os.environ.get("NACRE_BENCH_NODES", "500,1000,2500,5000").split(","))
STEADY_S = float(os.environ.get("NACRE_BENCH_STEADY_S", "600"))
GROWTH_S = min(60.0, STEADY_S)
LOST = 50
JOIN_TIMEOUT_S = 900
SETTLE_S = 15
LIMITS = {
    "join.s": "at most 120 s for 5 000",
    "steady.cores": "at most 1.0 for 5 000",
    "steady.mib": "at most 1 500 MiB for 5 000",
}


@dataclass
class Figures:
    """What was measured of one fleet."""

    nodes: int
    join_s: float = 0.0
    mib: float = 0.0
    cores: float = 0.0
    missed: float = 0.0
    watched_s: float = 0.0
    load: tuple[float, float] = (0.0, 0.0)
    loss_s: list[float] = field(default_factory=list[float])


def growing() -> Iterator[Result]:
    """One fleet after the other, each from nothing."""
    engine = os.environ.get("NACRE_BENCH_DATABASE", "sqlite")
    for nodes in SIZES:
        last = nodes == SIZES[-1]
        with fresh(engine) as database:
            figures = measure(nodes, STEADY_S if last else GROWTH_S, database, lose=LOST if last else 0)
        yield from report(figures, engine)


@contextlib.contextmanager
def fresh(engine: str) -> Iterator[str | None]:
    """The URL of an empty database; None for the platform's own SQLite."""
    if engine == "sqlite":
        yield None
        return
    with cluster() as running:
        yield running.url(asyncio.run(running.create()))


def measure(nodes: int, steady_s: float, database: str | None, *, lose: int) -> Figures:
    """Join a fleet, watch it, and lose some of it."""
    figures = Figures(nodes=nodes, watched_s=steady_s)
    with platform(agents=0, database=database, log_level="warning") as cloud:
        load = os.getloadavg()[0]
        began = time.monotonic()
        fleet = Fleet(cloud, nodes)
        fleet.wait(timeout=JOIN_TIMEOUT_S, every=0.5)
        figures.join_s = time.monotonic() - began
        time.sleep(SETTLE_S)
        before, missed, began = (
            cpu_s(cloud.control.pid),
            metric(cloud, "nacre_heartbeats_missed_total"),
            time.monotonic(),
        )
        time.sleep(steady_s)
        figures.cores = (cpu_s(cloud.control.pid) - before) / (time.monotonic() - began)
        figures.mib = cloud.control.rss_mib()
        figures.missed = metric(cloud, "nacre_heartbeats_missed_total") - missed
        assert metric(cloud, "nacre_linked_nodes") == nodes
        if lose:
            figures.loss_s = losses(cloud, fleet, lose)
        figures.load = (load, os.getloadavg()[0])
    return figures


def losses(cloud: Platform, fleet: Fleet, count: int) -> list[float]:
    """Let nodes fall silent; seconds until each is told to be offline, to anybody who asks."""
    assert not offline(cloud), "a node was offline although none was lost"
    silent = {node["id"]: node["monotonic"] for node in fleet.order(f"silence {count}")["nodes"]}
    seen: dict[str, float] = {}
    deadline = time.monotonic() + 60
    while len(seen) < count and time.monotonic() < deadline:
        time.sleep(0.02)
        for node in offline(cloud) - seen.keys():
            seen[node] = time.monotonic() - silent[node]
    assert seen.keys() == silent.keys(), f"{len(seen)} of {count} were noticed"
    return sorted(seen.values())


def offline(cloud: Platform) -> set[str]:
    """The nodes that were told to be offline."""
    return {event["object_id"] for event in cloud.get("/v1/events", type="node.offline", limit=500)["items"]}


def report(figures: Figures, engine: str) -> Iterator[Result]:
    """The figures of one fleet as results."""
    how = (
        f"one nacre-control ({engine}) and {figures.nodes} nodes of one nacre-agent --simulate on this host; "
        f"load of the host before and after: {figures.load[0]:.1f}, {figures.load[1]:.1f}"
    )
    steady = f"{figures.watched_s:g} s of heartbeats every 5 s, {figures.missed:g} missed; {how}"
    for name, value, unit, detail in (
        ("join", figures.join_s, "s", f"start of the simulation until all are linked; {how}"),
        ("steady", figures.mib, "mib", f"VmRSS after {steady}"),
        ("steady", figures.cores, "cores", f"CPU time per second over {steady}"),
        ("missed", figures.missed, "heartbeats", steady),
    ):
        yield Result(
            name=f"fleet.{name}_{figures.nodes}.{unit}",
            value=value,
            unit={"mib": "MiB"}.get(unit, unit),
            better="lower",
            reference=LIMITS.get(f"{name}.{unit}", "none"),
            samples=[value],
            how=detail,
        )
    if figures.loss_s:
        yield Result(
            name="fleet.loss_seen.s_p95",
            value=figures.loss_s[int(len(figures.loss_s) * 0.95)],
            unit="s",
            better="lower",
            reference="at most 15 s",
            samples=figures.loss_s,
            how=f"{len(figures.loss_s)} nodes fall silent without hanging up until GET /v1/events has them; {how}",
        )


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, in seconds."""
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def metric(cloud: Platform, name: str) -> float:
    """A number that the control plane publishes."""
    lines: list[Any] = cloud.request("GET", "/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


NAMES = (
    *(
        f"fleet.{what.replace('N', str(nodes))}"
        for nodes in SIZES
        for what in ("join_N.s", "steady_N.mib", "steady_N.cores")
    ),
    "fleet.loss_seen.s_p95",
)
BENCHES = {NAMES: growing}

"""Many machines at once onto as few nodes as possible, or spread as widely as possible. Pure.

Every filter holds as it does for a single machine, and each machine sees those of the group that were placed before
it. First-fit decreasing: https://en.wikipedia.org/wiki/First-fit-decreasing_bin_packing.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from enum import StrEnum

import numpy as np

from nacre.control.scheduler import relations, scores
from nacre.control.scheduler.filters import Screened, screen_for
from nacre.control.scheduler.placement import Ranked, decide, rank, strategy_of
from nacre.control.scheduler.scores import CPU, DISK, MEMORY
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import Request
from nacre.model.ids import NodeId
from nacre.model.placement import Decision, Strategy, Topology


class Packing(StrEnum):
    """How a group of machines is laid out."""

    FIRST_FIT_DECREASING = "first-fit-decreasing"  # largest first, each onto the first node in order that fits
    BEST_FIT = "best-fit"  # largest first, each onto the fullest node that fits
    SPREAD_NODES = "spread-nodes"  # as few as possible on one node
    SPREAD_ZONES = "spread-zones"
    SPREAD_REGIONS = "spread-regions"


SPREAD = {
    Packing.SPREAD_NODES: Topology.NODE,
    Packing.SPREAD_ZONES: Topology.ZONE,
    Packing.SPREAD_REGIONS: Topology.REGION,
}


def pack(requests: Sequence[Request], fleet: Fleet, *, order: Packing, random: Callable[[], float]) -> list[Decision]:
    """Place a group, and return the decisions in the order of `requests`. `fleet` is changed: it takes what was placed.

    First-fit decreasing and best-fit take the largest first and say `best-fit` for their strategy; nodes are in order
    from the fullest on, as they are before the first is placed. Spread takes them as they come, each to a place with
    the fewest of the group, and there to the node that its strategy prefers.
    """
    decisions: dict[int, Decision] = {}
    if order in SPREAD:
        counts: Counter[int] = Counter()
        for number, request in enumerate(requests):
            decisions[number] = _spread(request, fleet, SPREAD[order], counts, random)
    else:
        first = _positions(fleet) if order is Packing.FIRST_FIT_DECREASING else None
        for number in _decreasing(requests, fleet):
            decisions[number] = _tight(requests[number], fleet, first, random)
    return [decisions[number] for number in range(len(requests))]


def size(request: Request, largest: tuple[float, float, float]) -> float:
    """Return how large a machine is, as a share of the largest node: CPU .4, memory .4, disk .2."""
    cpus, memory, disk = largest
    return CPU * request.cpus / cpus + MEMORY * request.memory_bytes / memory + DISK * request.disk_bytes / disk


def _decreasing(requests: Sequence[Request], fleet: Fleet) -> list[int]:
    largest = (_largest(fleet.per_cpu), _largest(fleet.per_memory), _largest(fleet.per_disk))
    sizes = [size(request, largest) for request in requests]
    return sorted(range(len(requests)), key=lambda number: (-sizes[number], number))


def _largest(per_unit: scores.Numbers) -> float:
    given = per_unit[per_unit > 0]
    return float(1 / given.min()) if len(given) else 1.0


def _positions(fleet: Fleet) -> dict[NodeId, int]:
    order = fleet.order()
    fullest = order[np.argsort(-scores.load(fleet)[order], kind="stable")]
    return {fleet.room_at(int(row)).id: position for position, row in enumerate(fullest)}


def _tight(request: Request, fleet: Fleet, first: dict[NodeId, int] | None, random: Callable[[], float]) -> Decision:
    screened = screen_for(request, fleet)
    if first is None:
        ranked = rank(request, fleet, screened, Strategy.BEST_FIT, random)
    else:
        ranked = _first(fleet, screened, first)
    return _take(request, fleet, screened, ranked, Strategy.BEST_FIT)


def _first(fleet: Fleet, screened: Screened, first: dict[NodeId, int]) -> Ranked:
    order = fleet.order()
    rows = order[screened.fits[order]]
    positions = np.array([first[fleet.room_at(int(row)).id] for row in rows], dtype=np.float64)
    scored = 1 - positions / max(1, len(first))
    return Ranked(rows=rows, scores=scored, parts={"order": scored})


def _spread(
    request: Request, fleet: Fleet, topology: Topology, counts: Counter[int], random: Callable[[], float]
) -> Decision:
    strategy = strategy_of(request, fleet)
    screened = screen_for(request, fleet)
    places = relations.places(topology, fleet)
    ranked = rank(request, fleet, screened, strategy, random)
    if len(ranked.rows):
        here = np.array([counts[int(place)] for place in places[ranked.rows]], dtype=np.float64)
        # A place with one machine fewer comes before whatever a strategy and preferences may say of it.
        step = 1 + float(np.ptp(ranked.scores))
        part = (here.min() - here) * step
        ranked = Ranked(rows=ranked.rows, scores=ranked.scores + part, parts={**ranked.parts, "group": part})
    decision = _take(request, fleet, screened, ranked, strategy)
    if decision.node is not None:
        counts[int(places[_row(fleet, decision.node)])] += 1
    return decision


def _take(request: Request, fleet: Fleet, screened: Screened, ranked: Ranked, strategy: Strategy) -> Decision:
    decision = decide(fleet, screened, ranked, strategy, explain=True)
    if decision.node is not None:
        fleet.take(decision.node, request)
    return decision


def _row(fleet: Fleet, node: NodeId) -> int:
    row = fleet.row(node)
    if row is None:
        raise KeyError(node)
    return row

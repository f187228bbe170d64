"""What machines require of each other: affinity, anti-affinity both ways, and spread. Pure.

A place is a node, a zone of a region, or a region. Nodes without a zone are together in one place, so that a
requirement is never passed over because somebody forgot to name zones.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from nacre.control.scheduler.columns import Mask, Rows, Whole
from nacre.control.scheduler.neighbours import Counts, selector
from nacre.control.scheduler.reasons import Reason
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import Request
from nacre.model.placement import SpreadConstraint, Topology

_NAMES = {Topology.NODE: "the node", Topology.ZONE: "the zone", Topology.REGION: "the region"}
_IN = {Topology.NODE: "on the node", Topology.ZONE: "in the zone", Topology.REGION: "in the region"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Objection:
    """What is required, and where it would not be so. Of one code, a node is in one objection only."""

    reason: Reason
    against: Mask


def objections(request: Request, fleet: Fleet, suitable: Mask) -> Iterator[Objection]:
    """Return what speaks against nodes because of the machines that live there or do not."""
    for found in (
        _affinity(request, fleet),
        _anti_affinity(request, fleet),
        _kept_away(request, fleet),
        _spread(request, fleet, suitable),
    ):
        left: Mask | None = None
        for objection in found:
            fresh = objection.against & (fleet.alive if left is None else left)
            if fresh.any():
                left = (fleet.alive if left is None else left) & ~fresh
                yield Objection(reason=objection.reason, against=fresh)


def here(counts: Counts, topology: Topology, fleet: Fleet) -> Whole:
    """Return for every row how many of the counted machines live in the same place."""
    rows = np.fromiter(counts, dtype=np.intp, count=len(counts))
    numbers = np.fromiter(counts.values(), dtype=np.int64, count=len(counts))
    if topology is Topology.NODE:
        found = np.zeros(len(fleet.alive), dtype=np.int64)
        found[rows] = numbers
        return found
    place = places(topology, fleet)
    return np.bincount(place[rows], weights=numbers, minlength=fleet.places).astype(np.int64)[place]


def places(topology: Topology, fleet: Fleet) -> Rows:
    """Return the number of the place that each row is in."""
    match topology:
        case Topology.NODE:
            return np.arange(len(fleet.alive))
        case Topology.ZONE:
            return fleet.zone
        case Topology.REGION:
            return fleet.region


def bearers(request: Request, labels: Mapping[str, str], fleet: Fleet) -> Counts:
    """Return where machines of the same project with `labels` live, not counting the machine itself."""
    return fleet.neighbours.bearers(selector(request.project, labels), without=request.vm)


def carries(request: Request, labels: Mapping[str, str]) -> bool:
    """Whether the machine itself has `labels`."""
    return all(request.labels.get(key) == value for key, value in labels.items())


def excess(request: Request, constraint: SpreadConstraint, fleet: Fleet, suitable: Mask) -> Whole | None:
    """Return by how many machines each row's place would be ahead of the emptiest if the machine went there.

    Only places with a suitable node count as empty: a zone that is down or closed holds nobody back. None without one.
    """
    if not suitable.any():
        return None
    counts = here(bearers(request, constraint.labels, fleet), constraint.topology, fleet)
    return counts + int(carries(request, constraint.labels)) - counts[suitable].min()


def words(labels: Mapping[str, str]) -> str:
    """Return labels as they are written: `app=web,tier=front`."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _affinity(request: Request, fleet: Fleet) -> Iterator[Objection]:
    for term in request.placement.affinity:
        if not term.required:
            continue
        counts = bearers(request, term.labels, fleet)
        if not counts and carries(request, term.labels):
            continue  # the first of a group that wants to be together
        message = f"no machine with {words(term.labels)} {_IN[term.topology]}"
        yield Objection(
            reason=Reason(code="affinity", message=message),
            against=here(counts, term.topology, fleet) == 0,
        )


def _anti_affinity(request: Request, fleet: Fleet) -> Iterator[Objection]:
    for term in request.placement.anti_affinity:
        counts = bearers(request, term.labels, fleet) if term.required else {}
        if counts:
            message = f"{_NAMES[term.topology]} has a machine with {words(term.labels)}"
            yield Objection(
                reason=Reason(code="anti_affinity", message=message),
                against=here(counts, term.topology, fleet) > 0,
            )


def _kept_away(request: Request, fleet: Fleet) -> Iterator[Objection]:
    for (_, topology), counts in fleet.neighbours.kept_away(request.project, request.labels, without=request.vm):
        message = f"a machine {_IN[topology]} is to be apart from this one"
        yield Objection(
            reason=Reason(code="kept_away", message=message),
            against=here(counts, topology, fleet) > 0,
        )


def _spread(request: Request, fleet: Fleet, suitable: Mask) -> Iterator[Objection]:
    for constraint in request.placement.spread:
        ahead = excess(request, constraint, fleet, suitable) if constraint.required else None
        if ahead is not None:
            message = (
                f"{_NAMES[constraint.topology]} would be more than {constraint.max_skew} ahead of the emptiest "
                f"in machines with {words(constraint.labels)}"
            )
            yield Objection(
                reason=Reason(code="spread", message=message),
                against=ahead > constraint.max_skew,
            )

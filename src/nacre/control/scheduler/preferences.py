"""What a machine would like but does not require, as parts of a score that are the same for every strategy. Pure.

The scale is that of Cloudless (NQRust): a preference of weight 100 is worth .2, a preferred anti-affinity costs up to
.3. Scores of strategies lie between 0 and 1, so a preference outweighs a difference in load of its own size.
"""

import numpy as np

from nacre.control.scheduler import relations
from nacre.control.scheduler.columns import Mask, Numbers, Rows
from nacre.control.scheduler.scores import Parts
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request
from nacre.model.placement import Placement, TaintEffect

LIKED = 0.2
"""A preference of weight 100 for labels of a node, or for machines to be near to."""
DISLIKED = 0.3
"""A preference of weight 100 for machines to be apart from; a place that is too far ahead; a taint."""
LATER = 0.1
"""Each place further back in the order of regions or zones."""


def parts(request: Request, fleet: Fleet, rows: Rows, suitable: Mask) -> Parts:
    """Return what the machine would like, where it says anything about that, for the nodes of `rows`."""
    asked = request.placement
    found: Parts = {}
    if asked.prefer:
        found["prefer"] = sum(
            (_labels(fleet, dict(p.labels))[rows] * (LIKED * p.weight / 100) for p in asked.prefer), _none(rows)
        )
    near = [(term, LIKED) for term in asked.affinity if not term.required]
    apart = [(term, -DISLIKED) for term in asked.anti_affinity if not term.required]
    for name, terms in (("affinity", near), ("anti_affinity", apart)):
        if terms:
            found[name] = _none(rows)
            for term, worth in terms:
                counts = relations.bearers(request, term.labels, fleet)
                if counts:
                    there = relations.here(counts, term.topology, fleet)[rows] > 0
                    found[name] += there * (worth * term.weight / 100)
    if any(not constraint.required for constraint in asked.spread):
        found["spread"] = _spread(request, fleet, rows, suitable)
    taints = _taints(asked, fleet)
    if taints.any():
        found["taints"] = -DISLIKED * taints[rows]
    if len(asked.regions) > 1 or len(asked.zones) > 1:
        found["order"] = -LATER * _order(asked, fleet)[rows]
    return found


def _none(rows: Rows) -> Numbers:
    return np.zeros(len(rows))


def _labels(fleet: Fleet, labels: dict[str, str]) -> Numbers:
    def judge(room: NodeRoom) -> float:
        return float(all(room.labels.get(key) == value for key, value in labels.items()))

    return fleet.columns.measures(("prefer", frozenset(labels.items())), judge).values


def _spread(request: Request, fleet: Fleet, rows: Rows, suitable: Mask) -> Numbers:
    """Nothing for a place that would stay even with the emptiest, all of it for one that would be too far ahead."""
    found = _none(rows)
    for constraint in request.placement.spread:
        ahead = None if constraint.required else relations.excess(request, constraint, fleet, suitable)
        if ahead is not None:
            own = int(relations.carries(request, constraint.labels))
            found -= DISLIKED * np.clip((ahead[rows] - own) / constraint.max_skew, 0.0, 1.0)
    return found


def _taints(asked: Placement, fleet: Fleet) -> Numbers:
    def judge(room: NodeRoom) -> float:
        minded = [taint for taint in room.taints if taint.effect is TaintEffect.PREFER_NO_SCHEDULE]
        return float(sum(not any(toleration.covers(taint) for toleration in asked.tolerations) for taint in minded))

    return fleet.columns.measures(("minded", asked.tolerations), judge).values


def _order(asked: Placement, fleet: Fleet) -> Numbers:
    def judge(room: NodeRoom) -> float:
        region = asked.regions.index(room.region) if room.region in asked.regions else 0
        zone = asked.zones.index(room.zone) if room.zone in asked.zones else 0
        return float(region + zone)

    return fleet.columns.measures(("order", asked.regions, asked.zones), judge).values

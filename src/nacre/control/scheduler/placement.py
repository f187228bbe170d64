"""Choose a node for a machine, and say why. Called by the reconcilers. Pure: no clock, no database."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nacre.control.scheduler import preferences, scores
from nacre.control.scheduler.columns import Numbers, Rows
from nacre.control.scheduler.filters import Screened, screen_for
from nacre.control.scheduler.reasons import fits
from nacre.control.scheduler.scores import Parts
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import Request
from nacre.model.placement import Candidate, Decision, Strategy

__all__ = ["fits", "place"]

CANDIDATES = 5
"""Nodes that an explanation names, the chosen one among them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """The nodes that fit, in the order of their ids, and their scores."""

    rows: Rows
    scores: Numbers
    parts: Parts


def place(request: Request, fleet: Fleet, *, random: Callable[[], float], explain: bool = True) -> Decision:
    """Return the node that suits the machine best, or why none can take it. Changes nothing.

    `random` returns numbers from 0 up to 1; with the same numbers and the same fleet the answer is the same. Of nodes
    that suit it equally, the one with the lowest id is chosen. Without `explain` neither the reasons nor the other
    candidates are worked out.
    """
    strategy = strategy_of(request, fleet)
    screened = screen_for(request, fleet, explain=explain)
    ranked = rank(request, fleet, screened, strategy, random)
    return decide(fleet, screened, ranked, strategy, explain=explain)


def strategy_of(request: Request, fleet: Fleet) -> Strategy:
    """Return the strategy of the request, or else the platform's."""
    return request.placement.strategy or fleet.policy.strategy


def rank(request: Request, fleet: Fleet, screened: Screened, strategy: Strategy, random: Callable[[], float]) -> Ranked:
    """Score the nodes that fit."""
    order = fleet.order()
    rows = order[screened.fits[order]]
    if not len(rows):
        return Ranked(rows=rows, scores=np.zeros(0), parts={})
    parts = scores.parts(request, fleet, rows, strategy, random)
    parts.update(preferences.parts(request, fleet, rows, screened.suitable))
    return Ranked(rows=rows, scores=scores.total(parts, rows), parts=parts)


def decide(fleet: Fleet, screened: Screened, ranked: Ranked, strategy: Strategy, *, explain: bool) -> Decision:
    """Return the decision for the best of the nodes that fit."""
    best = _best(ranked.scores, CANDIDATES if explain else 1)
    candidates = tuple(
        Candidate(
            node=room.id,
            name=room.name,
            score=float(ranked.scores[place]),
            parts={name: float(part[place]) + 0.0 for name, part in ranked.parts.items()},  # no -0.0
        )
        for place in best
        for room in (fleet.room_at(int(ranked.rows[place])),)
    )
    return Decision(
        node=candidates[0].node if candidates else None,
        strategy=strategy,
        considered=screened.considered,
        fitting=len(ranked.rows),
        rejected=screened.rejected,
        candidates=candidates if explain else (),
    )


def _best(given: Numbers, number: int) -> list[int]:
    """Return the places of the highest scores, best first; of equal ones the first, which has the lowest id."""
    if number == 1:
        return [int(given.argmax())] if len(given) else []
    left = given.copy()
    found: list[int] = []
    for _ in range(min(number, len(given))):
        found.append(int(left.argmax()))
        left[found[-1]] = -np.inf
    return found

"""Moves that make the load of nodes more even. Pure, and without a lasting effect on the fleet that it looks at.

How loaded a node is: CPU .4, memory .4, disk .2 of what may be promised of it. The spread of a fleet is the standard
deviation of that over its ready nodes. A move is worth its trouble when the machine's node is less loaded with it than
the old one is by at least the gain that was asked for, and when the spread falls. The latter is why moves never go in
circles, and why a second run, once all moves of the first have been carried out, has nothing to propose.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nacre.control.scheduler import scores
from nacre.control.scheduler.columns import Mask, Numbers
from nacre.control.scheduler.filters import against, screen
from nacre.control.scheduler.neighbours import Selector, selector, selects
from nacre.control.scheduler.scores import CPU, DISK, MEMORY
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request, Resident
from nacre.model.ids import NodeId, ProjectId, VmId
from nacre.model.nodes import NodeState

LEAST = 1e-9
"""What differs by less is the same."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One move. They are proposed in the order in which they can be carried out."""

    resident: Resident
    source: NodeId
    target: NodeId
    gain: float
    """How much less loaded than its old node the new one is with the machine, 0 to 1."""
    before: float
    """The spread of the fleet before this move, 0 to 1."""
    after: float


def spread(fleet: Fleet) -> float:
    """Return how uneven the load is: its standard deviation over the ready nodes, 0 to 1."""
    loads = scores.load(fleet)[_ready(fleet)]
    return float(np.std(loads)) if len(loads) else 0.0


def propose(fleet: Fleet, *, min_gain: float, max_moves: int) -> list[Proposal]:
    """Return at most `max_moves` moves of different machines with a gain of at least `min_gain`, 0 to 1.

    Only machines whose request is known are moved, never one that another requires to be near to, and only to where
    every filter lets them. Of nodes that are cordoned or gone nothing is moved, that is for a drain.
    """
    trial = _Trial(fleet, min_gain)
    try:
        ends = trial.search(max_moves)
    finally:
        trial.undo()
    try:
        return trial.carry_out(ends)
    finally:
        trial.undo()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Step:
    resident: Resident
    request: Request
    target: NodeId
    gain: float
    before: float
    after: float


class _Trial:
    """Moves tried on the fleet itself, until they are undone."""

    def __init__(self, fleet: Fleet, min_gain: float) -> None:
        self._fleet = fleet
        self._min_gain = max(min_gain, LEAST)
        self._ready = _ready(fleet)
        self._needed = _needed(fleet.neighbours.all())
        self._rooms: dict[NodeId, NodeRoom] = {}
        self._homes: dict[VmId, Resident] = {}

    def search(self, max_moves: int) -> dict[VmId, NodeId]:
        """Move the machine that evens things out most, from the fullest node that has one, until there is none left.

        Returns where each machine ends up, in the order in which they moved last. Nodes that had none are looked at
        again only when nothing is left elsewhere.
        """
        ends: dict[VmId, NodeId] = {}
        barren: set[int] = set()
        fresh = True
        while True:
            step = self._best(barren, ends if len(ends) >= max_moves else None)
            if step is not None:
                self._move(step)
                ends.pop(step.resident.vm, None)
                ends[step.resident.vm] = step.target
                fresh = False
            elif fresh:
                return {vm: node for vm, node in ends.items() if node != self._homes[vm].node}
            else:
                barren.clear()
                fresh = True

    def carry_out(self, ends: dict[VmId, NodeId]) -> list[Proposal]:
        """Move every machine straight to where it ends up, as soon as it fits there and while that is worth it."""
        left = dict(ends)
        found: list[Proposal] = []
        while True:
            done = [proposal for vm, node in left.items() if (proposal := self._try(vm, node)) is not None]
            if not done:
                return found
            for proposal in done:
                del left[proposal.resident.vm]
            found += done

    def undo(self) -> None:
        """Put everything back."""
        for room in self._rooms.values():
            self._fleet.put(room)
        for resident in self._homes.values():
            self._fleet.settle(resident)

    def _best(self, barren: set[int], among: Iterable[VmId] | None) -> _Step | None:
        fleet = self._fleet
        loads = scores.load(fleet)
        sources = fleet.order()[self._ready[fleet.order()]]
        sources = sources[np.argsort(-loads[sources], kind="stable")]
        if not len(sources):
            return None
        lowest = loads[sources[-1]]
        for row in sources.tolist():
            if loads[row] - lowest < self._min_gain:
                return None
            if row in barren:
                continue
            residents = [one for one in fleet.neighbours.at(row) if among is None or one.vm in among]
            steps = [step for one in residents if (step := self._step_of(one, row, loads)) is not None]
            if steps:
                return min(steps, key=lambda step: (step.after, step.resident.vm))
            barren.add(row)
        return None

    def _step_of(self, resident: Resident, row: int, loads: Numbers) -> _Step | None:
        """Return the move of one machine to where it evens things out most."""
        request, fleet = resident.request, self._fleet
        if request is None or self._is_needed(resident):
            return None
        with_it = loads + _weight(request, fleet)
        worth = self._ready & (loads[row] - with_it >= self._min_gain)
        worth &= (fleet.memory >= request.memory_bytes) & (fleet.cpus >= request.cpus)
        worth[row] = False
        if worth.any():
            worth &= screen(request, fleet, explain=False).fits
        order = fleet.order()
        rows = order[worth[order]]
        if not len(rows):
            return None
        before, after = self._spreads(loads, row, request)
        to = int(rows[np.argmin(after[rows])])
        if after[to] > before - LEAST:
            return None
        return _Step(
            resident=resident,
            request=request,
            target=fleet.room_at(to).id,
            gain=float(loads[row] - with_it[to]),
            before=before,
            after=float(after[to]),
        )

    def _spreads(self, loads: Numbers, row: int, request: Request) -> tuple[float, Numbers]:
        """Return the spread of the fleet now, and for each row to which the machine of `row` could go."""
        counted = loads[self._ready]
        number, mean = len(counted), float(counted.mean())
        off = loads - mean
        weight = _weight(request, self._fleet)
        left = off[row] - weight[row]
        now = float(((counted - mean) ** 2).sum())
        squares = now - off[row] ** 2 + left**2 - off**2 + (off + weight) ** 2
        shift = (weight - weight[row]) / number
        return float(np.sqrt(now / number)), np.sqrt(np.maximum(0.0, squares / number - shift**2))

    def _try(self, vm: VmId, target: NodeId) -> Proposal | None:
        fleet = self._fleet
        resident, row, to = fleet.neighbours.get(vm), fleet.neighbours.row(vm), fleet.row(target)
        if resident is None or resident.request is None or row is None or to is None:
            return None
        loads = scores.load(fleet)
        gain = float(loads[row] - loads[to] - _weight(resident.request, fleet)[to])
        before, spreads = self._spreads(loads, row, resident.request)
        after = float(spreads[to])
        if gain < self._min_gain or after > before - LEAST or against(resident.request, fleet, to):
            return None
        source = fleet.room_at(row).id
        self._move(
            _Step(resident=resident, request=resident.request, target=target, gain=gain, before=before, after=after)
        )
        return Proposal(resident=resident, source=source, target=target, gain=gain, before=before, after=after)

    def _move(self, step: _Step) -> None:
        vm = step.resident.vm
        self._homes.setdefault(vm, step.resident)
        for node in (step.resident.node, step.target):
            self._rooms.setdefault(node, self._fleet.room(node))
        self._fleet.release(vm)
        self._fleet.reserve(step.target, step.request)

    def _is_needed(self, resident: Resident) -> bool:
        return any(
            selects(chosen, resident.project, resident.labels) and holders != {resident.vm}
            for chosen, holders in self._needed.get(resident.project, {}).items()
        )


def _ready(fleet: Fleet) -> Mask:
    return np.array(
        [alive and fleet.room_at(row).state is NodeState.READY for row, alive in enumerate(fleet.alive.tolist())],
        dtype=np.bool_,
    )


def _needed(residents: Iterable[Resident]) -> dict[ProjectId, dict[Selector, set[VmId]]]:
    """Return what machines require to be near to, and which machines do."""
    found: dict[ProjectId, dict[Selector, set[VmId]]] = {}
    for one in residents:
        for term in one.request.placement.affinity if one.request is not None else ():
            if term.required:
                chosen = selector(one.project, term.labels)
                found.setdefault(one.project, {}).setdefault(chosen, set()).add(one.vm)
    return found


def _weight(request: Request, fleet: Fleet) -> Numbers:
    """Return how much the machine would load each row."""
    return (
        CPU * request.cpus * fleet.per_cpu
        + MEMORY * request.memory_bytes * fleet.per_memory
        + DISK * request.disk_bytes * fleet.per_disk
    )

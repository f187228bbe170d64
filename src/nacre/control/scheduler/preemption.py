"""Room for a machine that fits nowhere, made by machines of lower priority that may be stopped for it. Pure.

Called by services when `place` has found nothing. Nothing is decided for good here: whoever stops the victims looks at
each of them again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np

from nacre.control.scheduler import reasons
from nacre.control.scheduler.columns import Rows, Whole
from nacre.control.scheduler.filters import against, suitable
from nacre.control.scheduler.neighbours import selector, selects
from nacre.control.scheduler.preemptible import NOWHERE
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request, Resident
from nacre.model.ids import NodeId, VmId
from nacre.model.placement import Topology

MOST_COMBINATIONS = 500
"""Sets of victims of one size that are tried on a node; with more of them, machines are let go one by one."""

Cost = tuple[int, int, int, int]
"""Number of victims, highest priority among them, sum of their priorities, bytes of memory that they have."""
Bound = tuple[int, int, int]
"""The first three of a cost."""
Amount = tuple[int, ...]
"""CPUs, bytes of memory, bytes of disk."""


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """The node that can take the machine once `victims` have left it, least important first."""

    node: NodeId
    victims: tuple[Resident, ...]


def make_room(request: Request, fleet: Fleet) -> Preemption | None:
    """Return the node where the fewest machines have to go, and which; None if that helps nowhere.

    Only machines that allow it and are of lower priority than the request ever go. Of equally many, those go whose
    highest priority is the lowest, then whose sum of priorities. On one node those with less memory go then.
    `fleet` is as before when this returns.
    """
    best: Preemption | None = None
    least: Cost | None = None
    for row, at_least in _promising(request, fleet):
        if least is not None and at_least >= least[:3]:
            break
        victims = _victims(request, fleet, row, least)
        if victims is None or (least is not None and _cost(victims)[:3] >= least[:3]):
            continue
        if _would_fit(request, fleet, row, victims):
            best, least = Preemption(node=fleet.room_at(row).id, victims=victims), _cost(victims)
    return best


def _promising(request: Request, fleet: Fleet) -> Iterator[tuple[int, Bound]]:
    """Return the rows where enough could be freed, with a bound that no set of victims there is below, lowest first.

    So many have to go at least as are needed of the largest; and no so many are less important than the first.
    """
    known = fleet.neighbours.preemptible
    wanted = suitable(request, fleet)
    eligible = (known.rows != NOWHERE) & (known.priorities < request.priority)
    eligible &= wanted[known.rows]
    rows, priorities, amounts = known.rows[eligible], known.priorities[eligible], known.amounts[:, eligible]
    missing = _missing_everywhere(request, fleet)
    number = np.ones(len(wanted), dtype=np.int64)
    possible = np.bincount(rows, minlength=len(wanted)) > 0
    for amount, needed in zip(amounts, missing, strict=True):
        order = np.lexsort((-amount, rows))
        freed = _running(amount[order], rows[order])
        too_few = np.bincount(rows[order][freed < needed[rows[order]]], minlength=len(wanted))
        possible &= too_few < np.maximum(1, np.bincount(rows, minlength=len(wanted)))
        number = np.maximum(number, too_few + 1)
    order = np.lexsort((priorities, rows))
    rows, priorities = rows[order], priorities[order]
    last = _running(np.ones_like(rows), rows) == number[rows]
    found = [
        (row, (int(number[row]), priority, total))
        for row, priority, total in zip(
            rows[last].tolist(), priorities[last].tolist(), _running(priorities, rows)[last].tolist(), strict=True
        )
        if possible[row]
    ]
    yield from sorted(found, key=lambda one: (one[1], fleet.room_at(one[0]).id))


def _running(values: Whole, rows: Rows) -> Whole:
    """Return the running sum of `values` within each of `rows`, which are sorted."""
    sums = np.cumsum(values)
    if not len(sums):
        return sums
    starts = np.flatnonzero(np.diff(rows, prepend=NOWHERE))
    lengths = np.diff(starts, append=len(rows))
    return sums - np.repeat(sums[starts] - values[starts], lengths)


def _missing_everywhere(request: Request, fleet: Fleet) -> tuple[Whole, Whole, Whole]:
    return request.cpus - fleet.cpus, request.memory_bytes - fleet.memory, request.disk_bytes - fleet.disk


def _victims(request: Request, fleet: Fleet, row: int, least: Cost | None) -> tuple[Resident, ...] | None:
    """Return who has to go from one node, if that may be better than what `least` stands for."""
    residents = fleet.neighbours.at(row)
    allowed = [one for one in residents if one.preemptible and one.priority < request.priority and one.vm != request.vm]
    must = _in_the_way(request, fleet.room_at(row), residents)
    if not allowed or not must <= {one.vm for one in allowed}:
        return None
    going = [one for one in allowed if one.vm in must]
    freed = _sum(going)
    missing = tuple(
        int(needed[row]) - amount for needed, amount in zip(_missing_everywhere(request, fleet), freed, strict=True)
    )
    others = sorted((one for one in allowed if one.vm not in must), key=lambda one: (one.priority, one.vm))
    most = len(others) if least is None else least[0] - len(going)
    more = _fewest(missing, others, most)
    if more is None:
        return None
    return tuple(sorted((*going, *more), key=lambda one: (one.priority, one.vm)))


def _in_the_way(request: Request, room: NodeRoom, residents: Iterable[Resident]) -> set[VmId]:
    """Return the machines that have to go whatever is left: they hold a port, or are to be apart from the newcomer."""
    others = tuple(port for port in room.ports if port.vm != request.vm)
    found = {taken.vm for port in request.publish for taken in others if reasons.port_holder((port,), (taken,))}
    own = [
        selector(request.project, term.labels)
        for term in request.placement.anti_affinity
        if term.required and term.topology is Topology.NODE
    ]
    for one in residents:
        theirs = [selector(one.project, term.labels) for term in one.anti_affinity if term.topology is Topology.NODE]
        if any(selects(chosen, one.project, one.labels) for chosen in own) or any(
            selects(chosen, request.project, request.labels) for chosen in theirs
        ):
            found.add(one.vm)
    return found - {request.vm}


def _fewest(missing: Amount, among: Sequence[Resident], most: int) -> Sequence[Resident] | None:
    """Return the fewest of `among`, sorted by priority, that free what is missing, at most `most` of them."""
    if max(missing) <= 0:
        return ()
    if not _frees(among, missing):
        return None
    for number in range(1, min(most, len(among)) + 1):
        if comb(len(among), number) > MOST_COMBINATIONS:
            return _one_by_one(missing, among, most)
        enough = [several for several in combinations(among, number) if _frees(several, missing)]
        if enough:
            return min(enough, key=_cost)
    return None


def _one_by_one(missing: Amount, among: Sequence[Resident], most: int) -> Sequence[Resident] | None:
    """Let machines go from the least important on until it is enough, and keep those that need not go after all."""
    going: list[Resident] = []
    for one in among:
        going.append(one)
        if _frees(going, missing):
            break
    for one in sorted(going, key=lambda one: (-one.priority, one.memory_bytes)):
        without = [other for other in going if other is not one]
        if _frees(without, missing):
            going = without
    return going if len(going) <= most else None


def _would_fit(request: Request, fleet: Fleet, row: int, victims: Iterable[Resident]) -> bool:
    """Try it: what other machines in the zone or the region want of each other is seen only then."""
    before = fleet.room_at(row)
    for victim in victims:
        fleet.release(victim.vm)
    fits = not against(request, fleet, row)
    fleet.put(before)
    for victim in victims:
        fleet.settle(victim)
    return fits


def _cost(victims: Sequence[Resident]) -> Cost:
    priorities = [one.priority for one in victims]
    return len(victims), max(priorities), sum(priorities), sum(one.memory_bytes for one in victims)


def _frees(victims: Iterable[Resident], missing: Amount) -> bool:
    cpus, memory, disk = _sum(victims)
    return cpus >= missing[0] and memory >= missing[1] and disk >= missing[2]


def _sum(residents: Iterable[Resident]) -> Amount:
    cpus = memory = disk = 0
    for one in residents:
        cpus += one.cpus
        memory += one.memory_bytes
        disk += one.disk_bytes
    return cpus, memory, disk

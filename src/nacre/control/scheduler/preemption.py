"""Room for a machine that fits nowhere, made by machines of lower priority that may be stopped for it. Pure.

Called by services when `place` has found nothing. Nothing is decided for good here: whoever stops the victims looks at
each of them again.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

from nacre.control.scheduler import reasons
from nacre.control.scheduler.filters import against, suitable
from nacre.control.scheduler.neighbours import selector, selects
from nacre.control.scheduler.reasons import limits
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request, Resident
from nacre.model.ids import NodeId, VmId
from nacre.model.placement import Topology

MOST_COMBINATIONS = 500
"""Sets of victims of one size that are tried on a node; with more of them, machines are let go one by one."""

Cost = tuple[int, int, int, int]
"""Number of victims, highest priority among them, sum of their priorities, bytes of memory that they have."""
Amount = tuple[int, int, int]
"""CPUs, bytes of memory, bytes of disk."""


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """The node that can take the machine once `victims` have left it, least important first."""

    node: NodeId
    victims: tuple[Resident, ...]


def make_room(request: Request, fleet: Fleet) -> Preemption | None:
    """Return the node where the fewest machines have to go, and which; None if that helps nowhere.

    Only machines that allow it and are of lower priority than the request ever go. Of equally many, those go whose
    highest priority is the lowest, then whose sum of priorities, then those with less memory, then on the node with
    the lower id. `fleet` is as before when this returns.
    """
    candidates = suitable(request, fleet)
    best: Preemption | None = None
    least: Cost | None = None
    for row in fleet.neighbours.preemptible():
        if not candidates[row]:
            continue
        room = fleet.room_at(row)
        victims = _victims(request, fleet, row, room, least)
        if victims is None:
            continue
        cost = _cost(victims)
        if least is not None and (cost > least or (cost == least and best is not None and room.id > best.node)):
            continue
        if _would_fit(request, fleet, row, victims):
            best, least = Preemption(node=room.id, victims=victims), cost
    return best


def _victims(
    request: Request, fleet: Fleet, row: int, room: NodeRoom, least: Cost | None
) -> tuple[Resident, ...] | None:
    """Return who has to go from one node, if that may be better than what `least` stands for."""
    residents = fleet.neighbours.at(row)
    allowed = [one for one in residents if one.preemptible and one.priority < request.priority and one.vm != request.vm]
    must = _in_the_way(request, room, residents)
    if not allowed or not must <= {one.vm for one in allowed}:
        return None
    going = [one for one in allowed if one.vm in must]
    missing = _missing(request, fleet, room, going)
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


def _missing(request: Request, fleet: Fleet, room: NodeRoom, going: Iterable[Resident]) -> Amount:
    has = limits(room.capacity, fleet.policy)
    cpus, memory, disk = _sum(going)
    return (
        max(0, request.cpus - (has.cpus - room.cpus) - cpus),
        max(0, request.memory_bytes - (has.memory_bytes - room.memory_bytes) - memory),
        max(0, request.disk_bytes - (has.disk_bytes - room.disk_bytes) - disk),
    )


def _fewest(missing: Amount, among: Sequence[Resident], most: int) -> Sequence[Resident] | None:
    """Return the fewest of `among`, sorted by priority, that free what is missing, at most `most` of them."""
    if not any(missing):
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

"""Which nodes can take a machine, asked of all nodes at once, and what speaks against the others. Pure.

The reasons of a single node, for a check under its lock, are in `reasons`; what machines want of each other is in
`relations`. All three say the same of the same node.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from nacre.control.scheduler import reasons, relations
from nacre.control.scheduler.columns import Mask, Verdicts, Whole, tally
from nacre.control.scheduler.reasons import Reason
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request
from nacre.model.ids import NodeId
from nacre.model.placement import Rejection
from nacre.model.vm_checks import ports_overlap

Words = Callable[[Mask], Iterable[Rejection]]

MOST_HOLDERS = 64
"""Holders of a port that are looked up to be told apart; beyond, one stands for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Screened:
    """What the filters say."""

    fits: Mask
    """Where the machine could go."""
    suitable: Mask
    """Where it could go by the facts of the node alone, whatever is left there and whoever else is there."""
    considered: int
    rejected: tuple[Rejection, ...]
    """Most frequent first, then by code; empty if it was not asked for."""


def screen_for(request: Request, fleet: Fleet, *, explain: bool = True) -> Screened:
    """Ask every filter of every node; if only nodes that come and go are left, one of those is better than none."""
    found = screen(request, fleet, explain=explain)
    if found.fits.any() or not fleet.columns.verdicts(*_steady(request)).against:
        return found
    restless = screen(request, fleet, explain=explain, restless=True)
    return restless if restless.fits.any() else found


def screen(request: Request, fleet: Fleet, *, explain: bool = True, restless: bool = False) -> Screened:
    """Ask every filter of every node, but with `restless` not whether it comes and goes."""
    if request.only is not None:
        return _only(request, fleet, request.only, explain=explain, restless=restless)
    fits = fleet.alive.copy()
    rejected: list[Rejection] = []
    for verdicts in static(request, fleet, restless=restless):
        if verdicts.against:
            fits &= verdicts.clear
            if explain:
                rejected += verdicts.rejections()
    by_facts = fits.copy()
    for rows, words in _dynamic(request, fleet, by_facts):
        if rows.any():
            fits &= ~rows
            if explain:
                rejected += words(rows)
    return Screened(fits=fits, suitable=by_facts, considered=len(fleet), rejected=in_order(rejected))


def against(request: Request, fleet: Fleet, row: int, *, restless: bool = False) -> tuple[Reason, ...]:
    """Return everything that speaks against the node of one row, with what other machines want of their neighbours."""
    alone = reasons.fits(request, fleet.room_at(row), fleet.policy, restless=restless)
    if request.only is not None and request.only != fleet.room_at(row).id:
        alone += (reasons.EXCLUDED,)
    counting = suitable(request, fleet) if request.placement.spread else fleet.alive
    found = relations.objections(request, fleet, counting)
    return alone + tuple(objection.reason for objection in found if objection.against[row])


def suitable(request: Request, fleet: Fleet) -> Mask:
    """Return where the machine could go by the facts of the nodes alone."""
    found = fleet.alive.copy()
    for verdicts in static(request, fleet):
        found &= verdicts.clear
    return found


def in_order(rejected: list[Rejection]) -> tuple[Rejection, ...]:
    """Return rejections as they are shown: most frequent first, then by code."""
    return tuple(sorted(rejected, key=lambda one: (-one.nodes, one.code, one.message)))


def static(request: Request, fleet: Fleet, *, restless: bool = False) -> Iterator[Verdicts]:
    """Return the columns of the checks that depend on the facts of nodes, those of them that the request needs."""
    for check, key in _static_keys(request):
        if check is not reasons.steady or not restless:
            yield fleet.columns.verdicts((check.__name__, key), lambda room, check=check: check(request, room))


def _steady(request: Request) -> tuple[tuple[str, Hashable], Callable[[NodeRoom], Reason | None]]:
    """What to ask the columns for, to know which nodes come and go."""
    return (reasons.steady.__name__, None), lambda room: reasons.steady(request, room)


def _static_keys(request: Request) -> Iterator[tuple[reasons.StaticCheck, Hashable]]:
    asked = request.placement
    yield reasons.ready, None
    yield reasons.steady, None
    yield reasons.conditions, None
    yield reasons.hypervisor, (request.hypervisor, request.machine, request.ha)
    yield reasons.taints, asked.tolerations
    if request.needs:
        yield reasons.capabilities, (request.hypervisor, request.needs)
    if request.architecture:
        yield reasons.architecture, request.architecture
    if asked.node_labels:
        yield reasons.node_labels, frozenset(asked.node_labels.items())
    if asked.regions:
        yield reasons.region, asked.regions
    if asked.zones:
        yield reasons.zone, asked.zones


def _dynamic(request: Request, fleet: Fleet, by_facts: Mask) -> Iterator[tuple[Mask, Words]]:
    """Return where each check speaks against nodes, and what it says then."""
    yield fleet.memory < request.memory_bytes, lambda rows: _lacking(reasons.no_memory, request, fleet.memory, rows)
    yield fleet.cpus < request.cpus, lambda rows: _lacking(reasons.no_cpus, request, fleet.cpus, rows)
    yield fleet.disk < request.disk_bytes, lambda rows: _lacking(reasons.no_disk, request, fleet.disk, rows)
    if fleet.policy.disk_headroom > 0:
        yield fleet.disk_share < fleet.policy.disk_headroom, lambda rows: _no_headroom(fleet, rows)
    if request.exclude:
        yield _rows_of(request.exclude, fleet), lambda rows: _all(reasons.EXCLUDED, rows)
    if request.within:
        yield _out_of_reach(request, fleet), lambda rows: _all(reasons.no_reach(request), rows)
    if request.full:
        yield _rows_of(request.full, fleet), lambda rows: _all(reasons.no_pool_room(request), rows)
    if request.publish:
        yield _port_taken(request, fleet), lambda rows: _port_reasons(request, fleet, rows)
    for objection in relations.objections(request, fleet, by_facts):
        yield objection.against, lambda rows, reason=objection.reason: _all(reason, rows)


def _all(reason: Reason, rows: Mask) -> tuple[Rejection, ...]:
    return (Rejection(code=reason.code, message=reason.message, nodes=int(np.count_nonzero(rows))),)


def _lacking(
    lack: Callable[[Request, int, bool], Reason], request: Request, free: Whole, rows: Mask
) -> tuple[Rejection, ...]:
    """Say how much the best of several nodes has left, and that it is the best if they differ."""
    left = np.maximum(free[rows], 0)
    most = int(left.max())
    return _all(lack(request, most, bool(left.min() < most)), rows)


def _no_headroom(fleet: Fleet, rows: Mask) -> tuple[Rejection, ...]:
    shares = fleet.disk_share[rows]
    most = float(shares.max())
    return _all(reasons.no_headroom(most, fleet.policy, bool(shares.min() < most)), rows)


def _rows_of(nodes: frozenset[NodeId], fleet: Fleet) -> Mask:
    found = np.zeros_like(fleet.alive)
    for node in nodes:
        row = fleet.row(node)
        if row is not None:
            found[row] = True
    return found


def _out_of_reach(request: Request, fleet: Fleet) -> Mask:
    return fleet.alive & ~_rows_of(request.within, fleet)


def _port_taken(request: Request, fleet: Fleet) -> Mask:
    taken = np.zeros_like(fleet.alive)
    for port in request.publish:
        for address, holders in fleet.holders(port).items():
            if ports_overlap(port, msgspec.structs.replace(port, host_address=address)):
                taken[np.fromiter(holders, dtype=np.intp, count=len(holders))] = True
    for row in fleet.port_rows(request.vm):
        taken[row] = reasons.ports(request, fleet.room_at(row)) is not None
    return taken


def _port_reasons(request: Request, fleet: Fleet, rows: Mask) -> tuple[Rejection, ...]:
    order = fleet.order()
    where = order[rows[order]]
    found = [reasons.ports(request, fleet.room_at(int(row))) for row in where[:MOST_HOLDERS]]
    counts = Counter(reason for reason in found if reason is not None)
    told = tally(counts)
    if len(where) <= MOST_HOLDERS:
        return told
    return _all(Reason(code=told[0].code, message=told[0].message), rows)


def _only(request: Request, fleet: Fleet, node: NodeId, *, explain: bool, restless: bool) -> Screened:
    row = fleet.row(node)
    fits = np.zeros_like(fleet.alive)
    if row is None:
        return Screened(fits=fits, suitable=fits, considered=0, rejected=())
    found = against(request, fleet, row, restless=restless)
    fits[row] = not found
    rejected = [Rejection(code=reason.code, message=reason.message, nodes=1) for reason in found] if explain else []
    return Screened(fits=fits, suitable=fits, considered=1, rejected=in_order(rejected))

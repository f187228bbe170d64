"""Who lives where: how many machines of a project carry certain labels on which node, kept up machine by machine. Pure.

No question goes through all machines. What a term selects is counted once, from an index by label, and then kept up;
what machines require to be apart from is indexed by one label of the term, so that a newcomer finds it by its own.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from nacre.control.scheduler.preemptible import Preemptible
from nacre.control.scheduler.values import Resident
from nacre.model.ids import ProjectId, VmId
from nacre.model.placement import Topology

Label = tuple[ProjectId, str, str]
Selector = tuple[ProjectId, frozenset[tuple[str, str]]]
Term = tuple[Selector, Topology]
Counts = dict[int, int]
"""Machines per row of the fleet; rows without any are not in it."""

K = TypeVar("K")

MOST_SELECTORS = 4096
"""The least recently asked for are forgotten, and counted again when they are asked for."""


def selector(project: ProjectId, labels: Mapping[str, str]) -> Selector:
    """Return what selects the machines of `project` that carry all of `labels`."""
    return project, frozenset(labels.items())


def selects(chosen: Selector, project: ProjectId, labels: Mapping[str, str]) -> bool:
    """Whether a machine of `project` with `labels` is selected."""
    return chosen[0] == project and all(labels.get(key) == value for key, value in chosen[1])


class Neighbours:
    """The machines of a fleet and their rows."""

    def __init__(self) -> None:
        self._rows: dict[VmId, int] = {}
        self._residents: dict[VmId, Resident] = {}
        self._homes: dict[int, dict[VmId, None]] = {}
        self._bearers: dict[Label, dict[VmId, None]] = {}
        self._counts: dict[Selector, Counts] = {}
        self._watched: dict[Label, list[Selector]] = {}
        self._apart: dict[Term, Counts] = {}
        self._apart_by_label: dict[Label, set[Term]] = {}
        self.preemptible = Preemptible()
        """Those that may be stopped for others."""

    def __len__(self) -> int:
        return len(self._residents)

    def get(self, vm: VmId) -> Resident | None:
        """Return a machine."""
        return self._residents.get(vm)

    def row(self, vm: VmId) -> int | None:
        """Return the row of a machine."""
        return self._rows.get(vm)

    def all(self) -> Iterable[Resident]:
        """Return every machine."""
        return self._residents.values()

    def at(self, row: int) -> list[Resident]:
        """Return the machines of one row."""
        return [self._residents[vm] for vm in self._homes.get(row, ())]

    def settle(self, resident: Resident, row: int) -> None:
        """Count a machine in, elsewhere no longer if it lived there."""
        self.leave(resident.vm)
        self._residents[resident.vm] = resident
        self._rows[resident.vm] = row
        self._homes.setdefault(row, {})[resident.vm] = None
        self.preemptible.add(resident, row)
        for key, value in resident.labels.items():
            label = (resident.project, key, value)
            self._bearers.setdefault(label, {})[resident.vm] = None
            for chosen in self._watched.get(label, ()):
                if selects(chosen, resident.project, resident.labels):
                    _add(self._counts[chosen], row, 1)
        for term in _terms(resident):
            if term not in self._apart:
                self._apart[term] = {}
                self._apart_by_label.setdefault(_pivot(term[0]), set()).add(term)
            _add(self._apart[term], row, 1)

    def leave(self, vm: VmId) -> None:
        """Count a machine out. One that is not there is no error."""
        resident = self._residents.pop(vm, None)
        if resident is None:
            return
        row = self._rows.pop(vm)
        _drop(self._homes, row, vm)
        self.preemptible.drop(vm)
        for key, value in resident.labels.items():
            label = (resident.project, key, value)
            _drop(self._bearers, label, vm)
            for chosen in self._watched.get(label, ()):
                if selects(chosen, resident.project, resident.labels):
                    _add(self._counts[chosen], row, -1)
        for term in _terms(resident):
            _add(self._apart[term], row, -1)
            if not self._apart[term]:
                del self._apart[term]
                _forget(self._apart_by_label, _pivot(term[0]), term)

    def bearers(self, chosen: Selector, *, without: VmId) -> Counts:
        """Return how many selected machines live where, not counting `without`. Not to be changed by the caller."""
        counts = self._counts.pop(chosen, None)
        if counts is None:
            counts = self._count(chosen)
            self._watched.setdefault(_pivot(chosen), []).append(chosen)
        self._counts[chosen] = counts
        if len(self._counts) > MOST_SELECTORS:
            oldest = next(iter(self._counts))
            del self._counts[oldest]
            watching = self._watched[_pivot(oldest)]
            watching.remove(oldest)
            if not watching:
                del self._watched[_pivot(oldest)]
        own = self._residents.get(without)
        if own is None or not selects(chosen, own.project, own.labels):
            return counts
        return _less(counts, self._rows[without])

    def kept_away(self, project: ProjectId, labels: Mapping[str, str], *, without: VmId) -> list[tuple[Term, Counts]]:
        """Return the terms by which machines, not counting `without`, require to be apart from such a newcomer."""
        own = self._residents.get(without)
        found: list[tuple[Term, Counts]] = []
        for key, value in labels.items():
            for term in self._apart_by_label.get((project, key, value), ()):
                if not selects(term[0], project, labels):
                    continue
                counts = self._apart[term]
                if own is not None and term in _terms(own):
                    counts = _less(counts, self._rows[without])
                if counts:
                    found.append((term, counts))
        return sorted(found, key=lambda one: (sorted(one[0][0][1]), one[0][1]))

    def _count(self, chosen: Selector) -> Counts:
        counts: Counts = {}
        project, labels = chosen
        found = [self._bearers.get((project, key, value), {}) for key, value in labels]
        for vm in min(found, key=len):
            if all(vm in others for others in found):
                _add(counts, self._rows[vm], 1)
        return counts


def _terms(resident: Resident) -> set[Term]:
    return {(selector(resident.project, term.labels), term.topology) for term in resident.anti_affinity}


def _pivot(chosen: Selector) -> Label:
    key, value = min(chosen[1])
    return chosen[0], key, value


def _add(counts: Counts, row: int, change: int) -> None:
    now = counts.get(row, 0) + change
    if now:
        counts[row] = now
    else:
        del counts[row]


def _less(counts: Counts, row: int) -> Counts:
    less = dict(counts)
    _add(less, row, -1)
    return less


def _drop(index: dict[K, dict[VmId, None]], key: K, vm: VmId) -> None:
    index[key].pop(vm)
    if not index[key]:
        del index[key]


def _forget(index: dict[Label, set[Term]], label: Label, term: Term) -> None:
    index[label].discard(term)
    if not index[label]:
        del index[label]

"""What a check says of every node: one array per check, remembered between decisions, kept true node by node. Pure.

A check that depends on facts which seldom change (labels, taints, hypervisors) is asked once per node, not once per
decision. `Fleet` tells the columns when the facts of a node change.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from nacre.control.scheduler.reasons import Reason
from nacre.control.scheduler.values import NodeRoom
from nacre.model.placement import Rejection

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Whole = npt.NDArray[np.int64]
Rows = npt.NDArray[np.intp]

C = TypeVar("C", "Verdicts", "Measures")

MOST_COLUMNS = 512
"""The least recently used are forgotten: a column of 5 000 nodes takes 25 to 40 kB."""
MOST_MESSAGES = 4
"""Messages of one code told apart in a refusal; with more, the most frequent stands for all."""


class Verdicts:
    """What one check says against each node."""

    def __init__(self, judge: Callable[[NodeRoom], Reason | None], capacity: int) -> None:
        self._judge = judge
        self._reasons: list[Reason] = []
        self._numbers: dict[Reason, int] = {}
        self._found: npt.NDArray[np.int32] = np.zeros(capacity, dtype=np.int32)
        self._rejections: tuple[Rejection, ...] | None = None
        self.clear: Mask = np.ones(capacity, dtype=np.bool_)
        """Where the check has nothing to say."""
        self.against = 0
        """Number of nodes that it speaks against."""

    def look(self, row: int, room: NodeRoom | None) -> None:
        """Judge one node anew; None is a row without a node."""
        reason = None if room is None else self._judge(room)
        number = 0
        if reason is not None:
            number = self._numbers.setdefault(reason, len(self._reasons) + 1)
            if number > len(self._reasons):
                self._reasons.append(reason)
        if number == self._found[row]:
            return
        self.against += int(number > 0) - int(self._found[row] > 0)
        self._found[row] = number
        self.clear[row] = number == 0
        self._rejections = None

    def grow(self, capacity: int) -> None:
        """Make place for more nodes."""
        more = capacity - len(self.clear)
        self._found = np.concatenate((self._found, np.zeros(more, dtype=np.int32)))
        self.clear = np.concatenate((self.clear, np.ones(more, dtype=np.bool_)))

    def rejections(self) -> tuple[Rejection, ...]:
        """Return what the check says, with the number of nodes that it says it of."""
        if self._rejections is None:
            counts = np.bincount(self._found, minlength=len(self._reasons) + 1)
            self._rejections = tally(
                {reason: int(count) for reason, count in zip(self._reasons, counts[1:], strict=True) if count}
            )
        return self._rejections


class Measures:
    """One number of each node."""

    def __init__(self, judge: Callable[[NodeRoom], float], capacity: int) -> None:
        self._judge = judge
        self.values: Numbers = np.zeros(capacity)

    def look(self, row: int, room: NodeRoom | None) -> None:
        """Measure one node anew; None is a row without a node."""
        self.values[row] = 0.0 if room is None else self._judge(room)

    def grow(self, capacity: int) -> None:
        """Make place for more nodes."""
        self.values = np.concatenate((self.values, np.zeros(capacity - len(self.values))))


class Columns:
    """The columns in use. `rooms` is the list of the fleet, which it goes on changing."""

    def __init__(self, rooms: list[NodeRoom | None]) -> None:
        self._rooms = rooms
        self._capacity = 0
        self._kept: dict[Hashable, Verdicts | Measures] = {}

    def verdicts(self, key: Hashable, judge: Callable[[NodeRoom], Reason | None]) -> Verdicts:
        """Return the column for `key`, which says everything that `judge` depends on besides the node."""
        found = self._kept.pop(key, None)
        column = found if isinstance(found, Verdicts) else self._filled(Verdicts(judge, self._capacity))
        self._keep(key, column)
        return column

    def measures(self, key: Hashable, judge: Callable[[NodeRoom], float]) -> Measures:
        """Return the column for `key`, which says everything that `judge` depends on besides the node."""
        found = self._kept.pop(key, None)
        column = found if isinstance(found, Measures) else self._filled(Measures(judge, self._capacity))
        self._keep(key, column)
        return column

    def look(self, row: int) -> None:
        """The facts of one node have changed, or it has come or gone."""
        for column in self._kept.values():
            column.look(row, self._rooms[row])

    def grow(self, capacity: int) -> None:
        """Make place for more nodes."""
        self._capacity = capacity
        for column in self._kept.values():
            column.grow(capacity)

    def nbytes(self) -> int:
        """Return what the arrays take, in bytes."""
        return sum(
            column.clear.nbytes * 5 if isinstance(column, Verdicts) else column.values.nbytes
            for column in self._kept.values()
        )

    def _filled(self, column: C) -> C:
        for row, room in enumerate(self._rooms):
            column.look(row, room)
        return column

    def _keep(self, key: Hashable, column: Verdicts | Measures) -> None:
        self._kept[key] = column
        if len(self._kept) > MOST_COLUMNS:
            del self._kept[next(iter(self._kept))]


def tally(counts: dict[Reason, int]) -> tuple[Rejection, ...]:
    """Return one rejection per reason; a code with many messages is told by the most frequent of them."""
    messages = Counter(reason.code for reason in counts)
    found: list[Rejection] = []
    for code, several in messages.items():
        of_code = sorted((reason for reason in counts if reason.code == code), key=lambda r: (-counts[r], r.message))
        if several > MOST_MESSAGES:
            found.append(Rejection(code=code, message=of_code[0].message, nodes=sum(counts[r] for r in of_code)))
        else:
            found += [Rejection(code=code, message=reason.message, nodes=counts[reason]) for reason in of_code]
    return tuple(found)

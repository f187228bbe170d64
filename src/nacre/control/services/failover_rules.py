"""When what a node runs may run elsewhere. Pure: rows in, verdicts and changed rows out; no clock, no database.

Why it can never run twice, in four rules that hold together (the simulation in the tests breaks each and is caught):

1. A lease lasts from when its node asked for it. It is on record, in the count `renewals`, before it is granted. So a
   count that has been read stands for leases that began before the reading, and `wait_s` after it has first been read
   all of them have ended on their node, if it has not changed.
2. A node is given up (FAILED) only if it has not changed, looked at under the lock of its row. A node that is granted
   a lease is heard, and stops being given up in the same transaction. So while it is given up no lease of it lasts.
3. Machines are taken only from a node that is given up, under the lock of its row, and each time its tenure ends.
   Leases are granted for the newest tenure only, to agents whose desired state, on their disk, is of that tenure. So
   whoever is granted one has been told of every machine that was taken.
4. Only machines all of whose lives on their node are held by a guard are taken: a guard lets a guest run for as long as
   a lease that was granted to this very placement lasts, and no longer, whatever has become of its agent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState, move
from nacre.model.vms import Desired, RunInfo

WANTED = frozenset({Desired.RUNNING, Desired.PAUSED})
"""What is worth starting elsewhere. A machine that should be off is, as soon as its node is."""

MARGIN_S = 1.5
"""The least that is waited beyond a lease: for a guard to be scheduled and to freeze its guest."""
DRIFT = 0.02
"""How wrong the clocks of a node and of the control plane may be, each, in what they take for a second."""

AT_ONCE = timedelta(seconds=60)
"""Nodes that were last heard within this time of each other fell silent at once."""


class Guardable(Protocol):
    """What is asked of a machine to know whether guards hold it."""

    @property
    def ha_since(self) -> int: ...  # noqa: D102
    @property
    def observed_generation(self) -> int: ...  # noqa: D102
    @property
    def run(self) -> RunInfo | None: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Silent:
    """A node that is not heard."""

    id: NodeId
    last_seen_at: datetime | None


def wait_s(lease_s: float) -> float:
    """Return for how long renewals must stand still, on our clock, until a lease has surely ended on its node."""
    return lease_s + max(MARGIN_S, 2.1 * DRIFT * lease_s)


def guarded(vm: Guardable) -> bool:
    """Whether every life that a machine may have on its node is held by a guard.

    It is if the node has never been told of it without `ha: restart`, or has said something since it was told of that,
    and the life that it spoke of last is over or held.
    """
    if vm.ha_since == 0:
        return False
    told = vm.ha_since == 1 or vm.observed_generation >= vm.ha_since
    loose = vm.run is not None and vm.run.exited_at is None and not vm.run.guarded
    return told and not loose


def may_give_up(node: NodeRow, tenure: int, renewals: int) -> bool:
    """Whether a node is as silent as it was when its renewals were counted."""
    return node.state is NodeState.OFFLINE and (node.tenure, node.renewals) == (tenure, renewals)


def given_up(node: NodeRow) -> NodeRow:
    """Return the row of a node whose lease has ended: from now on what it ran may run elsewhere."""
    return replace(node, state=move(node.state, NodeState.FAILED), tenure=node.tenure + 1, lease_s=0.0)


def may_take(node: NodeRow, vm: VmRow) -> bool:
    """Whether a machine may be taken off its node, whose row is locked, to be started elsewhere."""
    return node.state is NodeState.FAILED and vm.node == node.id and vm.desired in WANTED and guarded(vm)


def taken_from(node: NodeRow) -> NodeRow:
    """Return the row of a node from which a machine is taken: what it has been told so far is worth no lease."""
    return replace(node, tenure=node.tenure + 1)


def share_lost(node: NodeId, silent: Sequence[Silent], heard: int) -> tuple[int, int]:
    """Return how many of the `silent` fell so when `node` did, itself included, and how many were at work before that.

    `heard` nodes still are. Nodes that were given up since count: it is one event, however quickly each was noticed.
    """
    at = next((one.last_seen_at for one in silent if one.id == node), None)
    others = [one.last_seen_at for one in silent if one.id != node]
    group = 1 + sum(1 for other in others if at is not None and other is not None and abs(at - other) <= AT_ONCE)
    return group, heard + group


def is_mass_loss(lost: int, of: int, max_share: float) -> bool:
    """Whether so many nodes fell silent at once that it is rather the control plane that is cut off."""
    return lost > max_share * of

"""How a node's row changes with what its agent says, and which conditions came and went. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from nacre.control.services import reliability_score
from nacre.control.store.nodes import NodeRow
from nacre.model.nodes import STATE_OF_WISH, Condition, ConditionKind, NodeState, move

_GONE = frozenset({NodeState.OFFLINE, NodeState.FAILED})


def seen(row: NodeRow, now: datetime) -> NodeRow:
    """Return the row of a node that has just been heard: it is what its operator wants of it.

    One that was gone has come back, which counts as one flap at once: a flapping node gets nothing in between.
    """
    reliability = reliability_score.flapped(row.reliability, now) if row.state in _GONE else row.reliability
    state = move(row.state, STATE_OF_WISH[row.wish])
    return replace(row, state=state, last_seen_at=now, reliability=reliability)


def settled_labels(row: NodeRow) -> NodeRow:
    """Return the row with the labels that are shown: the agent's, covered by the operator's."""
    of_agent = row.facts.labels if row.facts is not None else {}
    return replace(row, labels={**of_agent, **row.own_labels})


def conditions(row: NodeRow) -> tuple[Condition, ...]:
    """Return all that is wrong with a node: what its agent reports, and what we have found out about it."""
    ours = [condition for condition in (row.held, flapping(row)) if condition is not None]
    kinds = {condition.kind for condition in ours}
    return (*(condition for condition in row.conditions if condition.kind not in kinds), *ours)


def flapping(row: NodeRow) -> Condition | None:
    """Return the condition of a node that comes and goes."""
    if row.reliability is None or row.reliability.flapping_since is None:
        return None
    return Condition(
        kind=ConditionKind.FLAPPING,
        message="the node keeps going away and coming back, and gets nothing new until that is over",
        hint="look at its network and at the agent's log; it is over some minutes after the last time",
        since=row.reliability.flapping_since,
    )


def changed_conditions(before: NodeRow, after: NodeRow) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield event type, message and details for each condition that came or went."""
    old = {condition.kind: condition for condition in conditions(before)}
    new = {condition.kind: condition for condition in conditions(after)}
    for kind in sorted(new.keys() - old.keys()):
        condition = new[kind]
        message = f"node {after.name}: {condition.message}"
        yield "node.condition_raised", message, {"condition": kind.value, "hint": condition.hint}
    for kind in sorted(old.keys() - new.keys()):
        yield "node.condition_cleared", f"node {after.name}: {kind} is over", {"condition": kind.value}

"""How a node's row changes with what its agent says, and which conditions came and went. Pure."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from nacre.control.store.nodes import NodeRow
from nacre.model.nodes import STATE_OF_WISH, Condition, move


def seen(row: NodeRow, now: datetime) -> NodeRow:
    """Return the row of a node that has just been heard: it is what its operator wants of it."""
    return replace(row, state=move(row.state, STATE_OF_WISH[row.wish]), last_seen_at=now)


def settled_labels(row: NodeRow) -> NodeRow:
    """Return the row with the labels that are shown: the agent's, covered by the operator's."""
    of_agent = row.facts.labels if row.facts is not None else {}
    return replace(row, labels={**of_agent, **row.own_labels})


def conditions(row: NodeRow) -> tuple[Condition, ...]:
    """Return all that is wrong with a node: what its agent reports, and what follows from what it holds."""
    if row.held is None:
        return row.conditions
    return (*(condition for condition in row.conditions if condition.kind is not row.held.kind), row.held)


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

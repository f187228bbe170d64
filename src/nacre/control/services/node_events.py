"""What there is to tell of nodes. Used by all services that change them."""

from collections.abc import Mapping
from typing import Any

from nacre.control.services import events
from nacre.control.store.db import Tx
from nacre.control.store.nodes import NodeRow
from nacre.model.events import SYSTEM, Actor, ActorKind
from nacre.model.nodes import NodeState


def tell_state(tx: Tx, before: NodeRow, after: NodeRow) -> None:
    """Tell of a change of state, if there is one."""
    if before.state is after.state:
        return
    details = {"before": {"state": before.state.value}, "after": {"state": after.state.value}}
    message = f"node {after.name} is {after.state}"
    if after.state is NodeState.OFFLINE:
        message = f"node {after.name} is offline: nothing has been heard of it"
    actor = SYSTEM if after.state is NodeState.OFFLINE else None
    tell(tx, after, f"node.{after.state}", message, actor=actor, details=details)


def tell(
    tx: Tx,
    row: NodeRow,
    event: str,
    message: str,
    *,
    actor: Actor | None = None,
    request_id: str = "",
    details: Mapping[str, Any] | None = None,
) -> None:
    """Emit an event about a node; by the node itself unless `actor` says otherwise."""
    events.emit(
        tx,
        type=event,
        actor=actor or Actor(kind=ActorKind.NODE, id=row.id, name=row.name),
        noun="node",
        object_id=row.id,
        object_name=row.name,
        project=None,
        message=message,
        request_id=request_id,
        details=details,
    )

"""Events: what happened, to what, by whom. They outlive what they tell of, and double as the audit trail. Pure."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec

from nacre.model.ids import ProjectId


class ActorKind(StrEnum):
    """Who did it."""

    USER = "user"
    NODE = "node"
    SYSTEM = "system"


class Actor(msgspec.Struct, frozen=True, kw_only=True):
    """The originator of an event."""

    kind: ActorKind
    id: str = ""
    name: str = ""


SYSTEM = Actor(kind=ActorKind.SYSTEM, name="nacre")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `cursor` grows without end and is what a stream resumes from."""

    cursor: int
    at: datetime
    type: str
    """`noun.verb` in the past: `vm.created`, `vm.started`, `token.revoked`."""
    actor: Actor
    noun: str
    object_id: str
    object_name: str
    project: ProjectId | None
    message: str
    request_id: str = ""
    details: dict[str, Any] = {}

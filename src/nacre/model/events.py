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
    """What kind of actor it is."""
    id: str = ""
    """Id of the actor."""
    name: str = ""
    """Name of the actor at the time."""


SYSTEM = Actor(kind=ActorKind.SYSTEM, name="nacre")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. `cursor` grows without end and is what a stream resumes from."""

    cursor: int
    """Its place in the order of events."""
    at: datetime
    """When."""
    type: str
    """`noun.verb` in the past: `vm.created`, `vm.started`, `token.revoked`."""
    actor: Actor
    """Who did it."""
    noun: str
    """What kind of object it is about."""
    object_id: str
    """Id of that object."""
    object_name: str
    """Name of that object at the time."""
    project: ProjectId | None
    """The project that it belongs to."""
    message: str
    """What happened, for people."""
    request_id: str = ""
    """The request that it comes from, as in the log."""
    details: dict[str, Any] = {}
    """What happened, for programs; depends on the type."""

"""Who is asking, and for which declared action. Made at the edge once per request, passed to every service."""

from dataclasses import dataclass, field
from datetime import datetime

from nacre.model.access import PLATFORM, Role
from nacre.model.events import Actor, ActorKind
from nacre.model.ids import ProjectId, TokenId, UserId


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A role and where it holds: `PLATFORM` or a project's id."""

    role: Role
    scope: str


@dataclass(frozen=True, kw_only=True)
class Principal:
    """A user as seen through one token."""

    user: UserId
    user_name: str
    grants: tuple[Grant, ...]
    token: TokenId | None = None
    token_actions: tuple[str, ...] = ("*:*",)
    token_project: ProjectId | None = None
    token_expires_at: datetime | None = None

    @property
    def actor(self) -> Actor:
        """For events."""
        return Actor(kind=ActorKind.USER, id=self.user, name=self.user_name)


@dataclass(kw_only=True)
class Caller:
    """A principal in one request, with the action that the route declared.

    Services ask `policy.require(caller, scope)` or `policy.visible(caller)`; either marks the request as checked,
    and a request on a route that is not public and ends unchecked is a defect that the edge turns into a 500.
    """

    principal: Principal
    action: str
    request_id: str = ""
    checked: bool = field(default=False)

    @property
    def actor(self) -> Actor:
        """For events."""
        return self.principal.actor


__all__ = ["PLATFORM", "Caller", "Grant", "Principal"]

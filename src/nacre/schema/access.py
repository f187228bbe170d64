"""Bodies of /v1/projects, /v1/users, /v1/grants, /v1/tokens, /v1/claim and /v1/me."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.access import Role
from nacre.model.ids import GrantId, ProjectId, TokenId, UserId
from nacre.schema.common import Body, Out, ProjectRef


class ProjectCreate(Body, frozen=True, kw_only=True):
    """A new project; who creates it becomes its admin."""

    name: str
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    labels: dict[str, str] = {}


class ProjectUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    description: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    labels: dict[str, str] | None = None


class ProjectOut(Out, frozen=True, kw_only=True):
    """A project."""

    id: ProjectId
    name: str
    description: str
    labels: dict[str, str]
    created_at: datetime
    updated_at: datetime
    etag: str


class UserCreate(Body, frozen=True, kw_only=True):
    """A new user. There is no password: give the user a token."""

    name: str
    display_name: Annotated[str, msgspec.Meta(max_length=256)] = ""


class UserOut(Out, frozen=True, kw_only=True):
    """A user."""

    id: UserId
    name: str
    display_name: str
    created_at: datetime
    etag: str


class GrantCreate(Body, frozen=True, kw_only=True):
    """A role for a user, on one project or on the whole platform (`project` null)."""

    user: str
    role: Role
    project: str | None = None


class GrantOut(Out, frozen=True, kw_only=True):
    """A role binding."""

    id: GrantId
    user: UserId
    user_name: str
    role: Role
    project: ProjectRef | None
    created_by: str
    created_at: datetime


class TokenCreate(Body, frozen=True, kw_only=True):
    """A new API token. It can do what its owner can do, narrowed by `actions` and `project`."""

    name: str
    user: str | None = None
    """Whose token it is; null for one's own. Another's needs `user:update` on the platform."""
    actions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)] = ("*:*",)
    project: str | None = None
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=366 * 86400)] = 90 * 86400


class TokenOut(Out, frozen=True, kw_only=True):
    """A token without its secret."""

    id: TokenId
    name: str
    user: UserId
    user_name: str
    actions: tuple[str, ...]
    project: ProjectRef | None
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class TokenCreated(Out, frozen=True, kw_only=True):
    """The only time that the secret is shown."""

    token: TokenOut
    secret: str


class ClaimBody(Body, frozen=True, kw_only=True):
    """The one-time claim that the first start printed, turned into the first administrator."""

    claim: str
    user_name: str = "admin"


class MeOut(Out, frozen=True, kw_only=True):
    """Who the caller is and what the caller holds."""

    user: UserOut
    token: TokenOut
    grants: list[GrantOut]

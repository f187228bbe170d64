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
    """Unique on the platform: lower-case letters, digits and dashes."""
    description: Annotated[str, msgspec.Meta(max_length=1024)] = ""
    """What it is for, for people."""
    labels: dict[str, str] = {}
    """Free labels, to select by."""


class ProjectUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    description: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    """What it is for, for people."""
    labels: dict[str, str] | None = None
    """Free labels, to select by."""


class ProjectOut(Out, frozen=True, kw_only=True):
    """A project."""

    id: ProjectId
    """Its id, which never changes."""
    name: str
    """Its name."""
    description: str
    """What it is for, for people."""
    labels: dict[str, str]
    """Free labels, to select by."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    etag: str
    """Its state, for `If-Match`."""


class UserCreate(Body, frozen=True, kw_only=True):
    """A new user. There is no password: give the user a token."""

    name: str
    """Unique on the platform: lower-case letters, digits and dashes."""
    display_name: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """How the user is shown to people."""


class UserOut(Out, frozen=True, kw_only=True):
    """A user."""

    id: UserId
    """Its id, which never changes."""
    name: str
    """Its name."""
    display_name: str
    """How the user is shown to people."""
    created_at: datetime
    """When it was made."""
    etag: str
    """Its state, for `If-Match`."""


class GrantCreate(Body, frozen=True, kw_only=True):
    """A role for a user, on one project or on the whole platform (`project` null)."""

    user: str
    """Name or id of a user."""
    role: Role
    """What the user becomes."""
    project: str | None = None
    """Name or id of a project; null grants it on the platform."""


class GrantOut(Out, frozen=True, kw_only=True):
    """A role binding."""

    id: GrantId
    """Its id, which never changes."""
    user: UserId
    """Id of the user."""
    user_name: str
    """Name of the user."""
    role: Role
    """The role."""
    project: ProjectRef | None
    """The project; null on the platform."""
    created_by: str
    """Who granted it."""
    created_at: datetime
    """When it was made."""


class TokenCreate(Body, frozen=True, kw_only=True):
    """A new API token. It can do what its owner can do, narrowed by `actions` and `project`."""

    name: str
    """What it is for."""
    user: str | None = None
    """Whose token it is; null for one's own. Another's needs `user:update` on the platform."""
    actions: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=64)] = ("*:*",)
    """What it may be used for; empty for all that its user may do."""
    project: str | None = None
    """The only project that it is good for; null for all."""
    ttl_s: Annotated[int, msgspec.Meta(ge=60, le=366 * 86400)] = 90 * 86400
    """For how many seconds it is good."""


class TokenOut(Out, frozen=True, kw_only=True):
    """A token without its secret."""

    id: TokenId
    """Its id, which never changes."""
    name: str
    """Its name."""
    user: UserId
    """Id of its user."""
    user_name: str
    """Name of its user."""
    actions: tuple[str, ...]
    """What it may be used for; empty for all that its user may do."""
    project: ProjectRef | None
    """The only project that it is good for; null for all."""
    created_at: datetime
    """When it was made."""
    expires_at: datetime
    """When it is no longer good."""
    last_used_at: datetime | None
    """When it was last used; null if never."""
    revoked_at: datetime | None
    """When it was revoked; null if it was not."""


class TokenCreated(Out, frozen=True, kw_only=True):
    """The only time that the secret is shown."""

    token: TokenOut
    """The token."""
    secret: str
    """What is sent as the bearer token. Shown once."""


class ClaimBody(Body, frozen=True, kw_only=True):
    """The one-time claim that the first start printed, turned into the first administrator."""

    claim: str
    """The one-time claim that the control plane has printed."""
    user_name: str = "admin"
    """Name of the first administrator."""


class MeOut(Out, frozen=True, kw_only=True):
    """Who the caller is and what the caller holds."""

    user: UserOut
    """Who you are."""
    token: TokenOut
    """The token that was used."""
    grants: list[GrantOut]
    """Your roles."""

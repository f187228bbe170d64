"""API tokens: from the secret in a request to a principal. Called for every request; writes once a minute per token.

A secret is `nacre_<id of the token>_<43 random characters>`: the id finds the row, the digest of the whole decides.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from nacre.control.auth import secrets
from nacre.control.auth.principals import PLATFORM, Grant, Principal
from nacre.control.store import grants
from nacre.control.store import tokens as store
from nacre.control.store.db import Database
from nacre.control.store.tokens import TokenRow
from nacre.errors import UnauthenticatedError
from nacre.lib.clock import Clock
from nacre.model.access import action_allowed
from nacre.model.ids import TokenId

RECORD_USE_EVERY = timedelta(minutes=1)

_SECRET = re.compile(r"nacre_([0-9a-z]{26})_([A-Za-z0-9_-]{43})")
_NEW_TOKEN = "make a new one with `nacre token create`, or ask an administrator for one"  # noqa: S105


@dataclass(frozen=True, kw_only=True)
class NewSecret:
    """A secret to hand out once, and what is kept of it."""

    secret: str
    digest: str


def new_secret(token: TokenId) -> NewSecret:
    """Return a fresh secret for the token with this id."""
    secret = f"nacre_{token.removeprefix('tok-')}_{secrets.new_secret()}"
    return NewSecret(secret=secret, digest=secrets.digest(secret))


async def authenticate(db: Database, secret: str, clock: Clock) -> Principal:
    """Return whose secret this is. Raises UnauthenticatedError (token_unknown, token_expired, token_revoked)."""
    parsed = _SECRET.fullmatch(secret)
    if parsed is None:
        raise _unknown()
    async with db.read() as rd:
        row = await store.get(rd, f"tok-{parsed[1]}")
        held = [] if row is None else await grants.of_user(rd, row.user)
    if row is None or not secrets.matches(secret, row.digest):
        raise _unknown()
    now = clock.now()
    if row.revoked_at is not None:
        raise UnauthenticatedError("token_revoked", f"the token {row.name} was revoked", hint=_NEW_TOKEN)
    if row.expires_at <= now:
        raise UnauthenticatedError("token_expired", f"the token {row.name} has expired", hint=_NEW_TOKEN)
    if row.last_used_at is None or row.last_used_at <= now - RECORD_USE_EVERY:
        async with db.write() as tx:
            await store.touch(tx, row.id, RECORD_USE_EVERY)
    return _principal(row, held)


def covers(patterns: Iterable[str], wanted: Iterable[str]) -> bool:
    """Whether a token with `patterns` may make one with `wanted`: each of these is within one of those."""
    allowed = tuple(patterns)
    return all(any(_within(pattern, outer) for outer in allowed) for pattern in wanted)


def _within(pattern: str, outer: str) -> bool:
    """`*` in `pattern` is matched by `*` in `outer` only, because no name contains it."""
    return action_allowed((outer,), pattern)


def _principal(row: TokenRow, held: list[grants.GrantRow]) -> Principal:
    return Principal(
        user=row.user,
        user_name=row.user_name,
        grants=tuple(Grant(role=grant.role, scope=grant.project or PLATFORM) for grant in held),
        token=row.id,
        token_actions=row.actions,
        token_project=row.project,
        token_expires_at=row.expires_at,
    )


def _unknown() -> UnauthenticatedError:
    return UnauthenticatedError("token_unknown", "the token is not known here", hint=_NEW_TOKEN)

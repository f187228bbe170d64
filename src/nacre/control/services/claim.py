"""An administrator made by whoever holds the claim: the first, or one more. Public, and asks no policy."""

import secrets as random_source
from datetime import timedelta

from nacre.control.auth import secrets
from nacre.control.services import grants, tokens, users
from nacre.control.store import claims
from nacre.control.store import grants as grant_store
from nacre.control.store import users as user_store
from nacre.control.store.db import Tx
from nacre.control.store.users import UserRow
from nacre.errors import UnauthenticatedError
from nacre.model.access import Role
from nacre.model.events import Actor, ActorKind
from nacre.schema.access import ClaimBody, TokenCreated

FIRST_TOKEN = "claim"  # noqa: S105 - its name
FIRST_TOKEN_LASTS = timedelta(days=365)


async def redeem(tx: Tx, body: ClaimBody, *, request_id: str = "") -> TokenCreated:
    """Make an administrator of the platform, new or of an existing user, with a token for everything. Works once.

    Raises UnauthenticatedError (claim_used, claim_unknown), InvalidInputError for a bad name.
    """
    stored = await claims.get(tx, lock=True)
    if stored is None and await user_store.any_exists(tx):
        raise UnauthenticatedError(
            "claim_used",
            "the claim was used already",
            hint="ask an administrator for a token, or make a new claim on the host: nacre-control --new-claim",
        )
    if stored is None or not secrets.matches(body.claim, stored):
        raise UnauthenticatedError(
            "claim_unknown",
            "this is not the claim of this control plane",
            hint="it was printed when the control plane first started, and is in the file `claim` of its data",
        )
    await claims.clear(tx)
    user = await _administrator(tx, body.user_name, request_id)
    made = await tokens.add(
        tx, owner=user, name=_token_name(), actions=tokens.ALL_ACTIONS, project=None, ttl=FIRST_TOKEN_LASTS
    )
    tokens.tell(tx, _actor(user), made.token, "created", request_id)
    return made


async def _administrator(tx: Tx, name: str, request_id: str) -> UserRow:
    user = await user_store.get(tx, name, lock=True)
    if user is None:
        user = await users.add(tx, name=name, display_name="")
        users.tell(tx, _actor(user), user, "created", request_id)
    held = await grant_store.of_user(tx, user.id)
    if not any(grant.role is Role.ADMIN and grant.project is None for grant in held):
        await grants.add(tx, user=user, role=Role.ADMIN, project=None, actor=_actor(user))
    return user


def _actor(user: UserRow) -> Actor:
    return Actor(kind=ActorKind.USER, id=user.id, name=user.name)


def _token_name() -> str:
    """A name that no earlier claim's token has."""
    return f"{FIRST_TOKEN}-{random_source.token_hex(4)}"

"""The first administrator: made once, by whoever holds the claim of the first start. Public, and asks no policy."""

from datetime import timedelta

from nacre.control.auth import secrets
from nacre.control.services import grants, tokens, users
from nacre.control.store import claims
from nacre.control.store import users as user_store
from nacre.control.store.db import Tx
from nacre.errors import UnauthenticatedError
from nacre.model.access import Role
from nacre.model.events import Actor, ActorKind
from nacre.schema.access import ClaimBody, TokenCreated

FIRST_TOKEN = "claim"  # noqa: S105 - its name
FIRST_TOKEN_LASTS = timedelta(days=365)


async def redeem(tx: Tx, body: ClaimBody, *, request_id: str = "") -> TokenCreated:
    """Make the first user, administrator of the platform, with a token for everything. Works once.

    Raises UnauthenticatedError (claim_used, claim_unknown), InvalidInputError for a bad name.
    """
    stored = await claims.get(tx, lock=True)
    if await user_store.any_exists(tx):
        raise UnauthenticatedError(
            "claim_used", "the claim was used already", hint="ask an administrator for a user and a token"
        )
    if stored is None or not secrets.matches(body.claim, stored):
        raise UnauthenticatedError(
            "claim_unknown",
            "this is not the claim of this control plane",
            hint="it was printed when the control plane first started, and is in the file `claim` of its data",
        )
    await claims.clear(tx)
    user = await users.add(tx, name=body.user_name, display_name="")
    actor = Actor(kind=ActorKind.USER, id=user.id, name=user.name)
    await grants.add(tx, user=user, role=Role.ADMIN, project=None, actor=actor)
    made = await tokens.add(
        tx, owner=user, name=FIRST_TOKEN, actions=tokens.ALL_ACTIONS, project=None, ttl=FIRST_TOKEN_LASTS
    )
    users.tell(tx, actor, user, "created", request_id)
    tokens.tell(tx, actor, made.token, "created", request_id)
    return made

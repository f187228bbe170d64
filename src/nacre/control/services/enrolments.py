"""Enrolment tokens: how new nodes are let in, each as often as it says.

Made for operators through `api`, and by `main` for an agent on the same machine; redeemed by `gateway` for an agent
that has no certificate yet.
"""

import hashlib
import re
import secrets
import shlex
from dataclasses import dataclass, replace
from datetime import timedelta

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events
from nacre.control.services.listing import ListQuery
from nacre.control.store import enrolments as store
from nacre.control.store import nodes
from nacre.control.store.db import Read, Tx
from nacre.control.store.enrolments import EnrolmentRow
from nacre.control.store.nodes import NodeRow
from nacre.control.wake import NODES
from nacre.errors import InvalidInputError, NotFoundError, UnauthenticatedError
from nacre.model.events import SYSTEM, Actor, ActorKind
from nacre.model.ids import EnrolmentId, NodeId, looks_like_id
from nacre.model.metadata import check_name
from nacre.model.nodes import NodeState
from nacre.protocol import join
from nacre.schema.common import Page
from nacre.schema.nodes import NodeTokenCreate, NodeTokenCreated, NodeTokenOut

_MAX_NAME = 63


@dataclass(frozen=True, kw_only=True)
class Joining:
    """What a new agent must know besides its secret."""

    gateway: str
    """`host:port` that agents dial."""
    ca: str
    """SHA-256 of the root certificate (DER), in hex."""
    api: str = "http://127.0.0.1:7480"
    """Where nodes fetch the installer: the address of the API."""


async def create(tx: Tx, caller: Caller, body: NodeTokenCreate, joining: Joining) -> NodeTokenCreated:
    """Make a token. Its secret is in the answer and nowhere else."""
    policy.require(caller, PLATFORM)
    return await issue(tx, body, joining, actor=caller.actor, request_id=caller.request_id)


async def issue_local(tx: Tx, body: NodeTokenCreate, joining: Joining) -> NodeTokenCreated:
    """Make a token for an agent on the same machine. The one before, if unused, is worth nothing from then on."""
    await store.revoke_unused(tx, SYSTEM.name)
    return await issue(tx, body, joining, actor=SYSTEM)


async def issue(
    tx: Tx, body: NodeTokenCreate, joining: Joining, *, actor: Actor, request_id: str = ""
) -> NodeTokenCreated:
    """Make a token without asking whether the actor may."""
    if body.node_name is not None:
        check_name(body.node_name, field="node_name")
        if body.uses > 1:
            raise InvalidInputError(
                "name_for_many_nodes",
                f"{body.uses} nodes cannot all be called {body.node_name}",
                hint="leave the name out: each node is then called as its host is",
                field="node_name",
            )
    secret = secrets.token_urlsafe(32)
    row = EnrolmentRow(
        id=EnrolmentId(tx.new_id("enrolment")),
        secret_sha256=_digest(secret),
        node_name=body.node_name,
        region=body.region,
        zone=body.zone,
        uses=body.uses,
        created_by=actor.name,
        created_at=tx.now(),
        expires_at=tx.now() + timedelta(seconds=body.ttl_s),
    )
    await store.add(tx, row)
    _tell(tx, row, "node_token.created", "an enrolment token was made", actor, request_id)
    text = join.encode(join.Join(gateway=joining.gateway, ca=joining.ca, secret=secret))
    return NodeTokenCreated(token=_out(row), join=text, command=install_command(joining.api))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[NodeTokenOut]:
    """Return the tokens that were not revoked, without secrets."""
    policy.require(caller, PLATFORM)
    rows, following = await store.page(rd, query)
    return Page(items=[_out(row) for row in rows], next=following)


async def show(rd: Read, caller: Caller, enrolment: str) -> NodeTokenOut:
    """Return a token without its secret. Raises NotFoundError."""
    policy.require(caller, PLATFORM)
    return _out(await _find(rd, enrolment))


async def revoke(tx: Tx, caller: Caller, enrolment: str) -> None:
    """Make a token useless. A node that joined with it stays."""
    policy.require(caller, PLATFORM)
    row = await _find(tx, enrolment, lock=True)
    await store.revoke(tx, row.id)
    _tell(tx, row, "node_token.revoked", "an enrolment token was revoked", caller.actor, caller.request_id)


def install_command(api: str) -> str:
    """Return what to run on a host to make it a node. It asks for the join string, which belongs into no command."""
    return f"curl -fsSL {shlex.quote(f'{api}/install.sh')} | sudo sh"


async def redeem(tx: Tx, secret: str, name: str, public_key_fingerprint: str) -> NodeRow:
    """Return the node that this token lets in. The same token and key give the same node again, and cost one use.

    A key that is known already keeps its node with a new token too. Raises UnauthenticatedError, ConflictError.
    """
    row = await store.by_secret(tx, _digest(secret))
    if row is None:
        raise _refusal("unknown", "is not one of this platform")
    if row.revoked_at is not None:
        raise _refusal("revoked", "was revoked")
    known = await nodes.by_key(tx, public_key_fingerprint)
    if known is not None and (known.enrolment == row.id or row.key_fingerprint == known.key_fingerprint):
        return known
    if row.used >= row.uses:
        raise _refusal("used", _used_up(row, public_key_fingerprint))
    if row.expires_at <= tx.now():
        raise _refusal("expired", "has expired")
    node = known or await _new_node(tx, row, name, public_key_fingerprint)
    if not await store.use(tx, row, node.id, public_key_fingerprint):
        raise _refusal("used", _used_up(row, public_key_fingerprint))
    if known is None:
        return node
    again = replace(known, enrolment=row.id)
    await nodes.save(tx, known, again)
    return again


def node_name_of(proposal: str) -> str:
    """Return a valid name close to what an agent proposes, which is its host name. Pure."""
    first = proposal.lower().split(".", 1)[0]
    name = re.sub(r"[^a-z0-9]+", "-", first)[:_MAX_NAME].strip("-") or "node"
    return f"n-{name[: _MAX_NAME - 2]}".strip("-") if looks_like_id(name) else name


def _used_up(row: EnrolmentRow, fingerprint: str) -> str:
    if row.key_fingerprint == fingerprint:
        return "has been used, and the node was removed since"
    return "has been used by another node" if row.uses == 1 else f"has let in all of its {row.uses} nodes"


def _refusal(why: str, message: str) -> UnauthenticatedError:
    return UnauthenticatedError(
        f"enrolment_token_{why}", f"the enrolment token {message}", hint="make a new one with `nacre node token create`"
    )


async def _new_node(tx: Tx, token: EnrolmentRow, proposal: str, fingerprint: str) -> NodeRow:
    name = token.node_name
    if name is None:
        stem = node_name_of(proposal)
        taken = await nodes.names(tx, stem[: _MAX_NAME - 4])
        numbered = (f"{stem[: _MAX_NAME - 4].strip('-')}-{number}" for number in range(2, len(taken) + 3))
        name = stem if stem not in taken else next(free for free in numbered if free not in taken)
    now = tx.now()
    row = NodeRow(
        id=NodeId(tx.new_id("node")),
        name=name,
        state=NodeState.ENROLLING,
        labels={},
        own_labels={},
        region=token.region,
        zone=token.zone,
        key_fingerprint=fingerprint,
        enrolment=token.id,
        created_at=now,
        updated_at=now,
    )
    await nodes.add(tx, row)
    events.emit(
        tx,
        type="node.enrolled",
        actor=Actor(kind=ActorKind.NODE, id=row.id, name=row.name),
        noun="node",
        object_id=row.id,
        object_name=row.name,
        project=None,
        message=f"node {row.name} has joined with a token of {token.created_by}",
        details={"token": token.id, "region": row.region, "zone": row.zone},
    )
    tx.wake(NODES)
    return row


async def _find(rd: Read, enrolment: str, *, lock: bool = False) -> EnrolmentRow:
    row = await store.get(rd, enrolment, lock=lock)
    if row is None:
        raise NotFoundError(
            "node_token_not_found",
            f"there is no enrolment token {enrolment}",
            hint="list them with `nacre node token list`",
        )
    return row


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _out(row: EnrolmentRow) -> NodeTokenOut:
    return NodeTokenOut(
        id=row.id,
        node_name=row.node_name,
        region=row.region,
        zone=row.zone,
        uses=row.uses,
        used=row.used,
        created_by=row.created_by,
        created_at=row.created_at,
        expires_at=row.expires_at,
        used_at=row.used_at,
        used_by=row.used_by,
    )


def _tell(tx: Tx, row: EnrolmentRow, event: str, message: str, actor: Actor, request_id: str = "") -> None:
    events.emit(
        tx,
        type=event,
        actor=actor,
        noun="node_token",
        object_id=row.id,
        object_name=row.node_name or "",
        project=None,
        message=message,
        request_id=request_id,
        details={"expires_at": row.expires_at.isoformat(), "node_name": row.node_name, "uses": row.uses},
    )

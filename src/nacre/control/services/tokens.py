"""API tokens: made, listed and revoked by their owner or by an administrator. The secret is in one answer only.

A token never makes one that may do more than itself: not more actions, no other project, and, once narrowed, not
for longer.
"""

from datetime import datetime, timedelta

from nacre.control.auth import policy
from nacre.control.auth import tokens as secrets
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import grants, projects, users
from nacre.control.services.events import emit
from nacre.control.store import grants as grant_store
from nacre.control.store import tokens as store
from nacre.control.store import users as user_store
from nacre.control.store.db import Read, Tx
from nacre.control.store.listing import ListQuery
from nacre.control.store.projects import ProjectRow
from nacre.control.store.tokens import TokenRow
from nacre.control.store.users import UserRow
from nacre.errors import ConflictError, ForbiddenError, NotFoundError
from nacre.model.access import check_action_patterns
from nacre.model.events import Actor
from nacre.model.ids import TokenId
from nacre.model.metadata import check_name
from nacre.schema.access import MeOut, TokenCreate, TokenCreated, TokenOut
from nacre.schema.common import Page, ProjectRef

ALL_ACTIONS = ("*:*",)


async def create(tx: Tx, caller: Caller, body: TokenCreate) -> TokenCreated:
    """Make a token for oneself, or for another user as an administrator. Raises ConflictError, ForbiddenError."""
    owner = await _owner(tx, caller, body.user)
    check_action_patterns(body.actions)
    project = await _project(tx, caller, body.project)
    ttl = timedelta(seconds=body.ttl_s)
    _require_no_more(caller, body, project, tx.now() + ttl)
    made = await add(tx, owner=owner, name=body.name, actions=body.actions, project=project, ttl=ttl)
    tell(tx, caller.actor, made.token, "created", caller.request_id)
    return made


async def show(rd: Read, caller: Caller, ref: str) -> TokenOut:
    """Return a token, by id, or one's own by name."""
    return out(await _require(rd, caller, ref))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[TokenOut]:
    """Return one's own tokens; those of all to an administrator of the platform."""
    policy.require_own(caller)
    principal = caller.principal
    user = None if policy.allowed(caller, PLATFORM, caller.action) else principal.user
    rows, following = await store.page(rd, query, user=user, project=principal.token_project)
    return Page(items=[out(row) for row in rows], next=following)


async def revoke(tx: Tx, caller: Caller, ref: str) -> None:
    """Make a token useless, at once. May be repeated."""
    row = await _require(tx, caller, ref)
    if row.revoked_at is None:
        await store.revoke(tx, row.id)
        tell(tx, caller.actor, out(row), "revoked", caller.request_id)


async def me(rd: Read, caller: Caller) -> MeOut:
    """Return who the caller is and what the caller holds."""
    policy.require_own(caller)
    principal = caller.principal
    user = await user_store.get(rd, principal.user)
    token = None if principal.token is None else await store.get(rd, principal.token)
    if user is None or token is None:
        raise users.missing(principal.user_name)
    held = await grant_store.of_user(rd, principal.user)
    return MeOut(user=users.out(user), token=out(token), grants=[grants.out(row) for row in held])


async def add(
    tx: Tx, *, owner: UserRow, name: str, actions: tuple[str, ...], project: ProjectRow | None, ttl: timedelta
) -> TokenCreated:
    """Insert a token; asks no policy and emits nothing. Raises InvalidInputError, ConflictError."""
    token = TokenId(tx.new_id("token"))
    new = secrets.new_secret(token)
    row = TokenRow(
        id=token,
        name=check_name(name),
        user=owner.id,
        user_name=owner.name,
        digest=new.digest,
        actions=actions,
        project=None if project is None else project.id,
        project_name=None if project is None else project.name,
        created_at=tx.now(),
        expires_at=tx.now() + ttl,
        last_used_at=None,
        revoked_at=None,
    )
    taken = ConflictError(
        "token_exists",
        f"{owner.name} has a token {name} already",
        hint="choose another name, or revoke that one",
        field="name",
    )
    await store.add(tx, row, taken=taken)
    return TokenCreated(token=out(row), secret=new.secret)


def out(row: TokenRow) -> TokenOut:
    """Show a row, without what is kept of the secret."""
    project = None
    if row.project is not None:
        project = ProjectRef(id=row.project, name=row.project_name or "")
    return TokenOut(
        id=row.id,
        name=row.name,
        user=row.user,
        user_name=row.user_name,
        actions=row.actions,
        project=project,
        created_at=row.created_at,
        expires_at=row.expires_at,
        last_used_at=row.last_used_at,
        revoked_at=row.revoked_at,
    )


def tell(tx: Tx, actor: Actor, token: TokenOut, verb: str, request_id: str) -> None:
    """Emit `token.<verb>`."""
    whose = "" if token.user == actor.id else f" of {token.user_name}"
    emit(
        tx,
        type=f"token.{verb}",
        actor=actor,
        noun="token",
        object_id=token.id,
        object_name=token.name,
        project=None,
        message=f"{actor.name} {verb} the token {token.name}{whose}",
        request_id=request_id,
        details={"user": token.user},
    )


async def _owner(tx: Tx, caller: Caller, ref: str | None) -> UserRow:
    policy.require_own(caller)
    own = await users.resolve(tx, caller.principal.user)
    if ref is None or ref in {own.id, own.name}:
        return own
    policy.require(caller, PLATFORM, action="user:update")
    return await users.resolve(tx, ref)


async def _project(tx: Tx, caller: Caller, ref: str | None) -> ProjectRow | None:
    bound = caller.principal.token_project
    if ref is None:
        return None if bound is None else await projects.resolve(tx, bound)
    row = await projects.resolve(tx, ref)
    if not policy.may_view(caller, row.id, "project"):
        raise projects.missing(ref)
    return row


def _require_no_more(caller: Caller, body: TokenCreate, project: ProjectRow | None, ends_at: datetime) -> None:
    principal = caller.principal
    bound = principal.token_project
    if bound is not None and (project is None or project.id != bound):
        raise _too_wide("this token is bound to another project", "project")
    if not secrets.covers(principal.token_actions, body.actions):
        raise _too_wide("this token may not do all of these actions itself", "actions")
    narrowed = bound is not None or principal.token_actions != ALL_ACTIONS
    if narrowed and principal.token_expires_at is not None and ends_at > principal.token_expires_at:
        raise _too_wide("this token is narrowed and ends before that", "ttl_s")


def _too_wide(message: str, field: str) -> ForbiddenError:
    return ForbiddenError(
        "token_too_wide", message, hint="ask for less, or use a token that is not narrowed", field=field
    )


async def _require(rd: Read, caller: Caller, ref: str) -> TokenRow:
    """A token of one's own, by id or name; another's by id, for administrators."""
    policy.require_own(caller)
    principal = caller.principal
    missing = NotFoundError("token_not_found", f"there is no token {ref}", hint="list yours with `nacre token list`")
    row = await store.get(rd, ref) or await store.named(rd, principal.user, ref)
    if row is None or (principal.token_project is not None and row.project != principal.token_project):
        raise missing
    if row.user != principal.user:
        policy.require(caller, PLATFORM, missing=missing)
    return row

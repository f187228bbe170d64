"""May this caller do this here? Asked by every service, decided by Cedar from the caller's grants and token.

Never reads the database: grants came with the principal. A project that may not be viewed does not exist for the
caller (`missing` is raised, the same error as for a wrong name); one that may be viewed but not changed is forbidden.
"""
# pyright: reportUnknownMemberType=false
# cedarpy's stubs speak of bare dicts.

import json
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache

import cedarpy

from nacre.control.auth.actions import ACTIONS, OWN_ACTIONS
from nacre.control.auth.principals import PLATFORM, Caller, Principal
from nacre.errors import ForbiddenError, NacreError
from nacre.model.access import Role, action_allowed
from nacre.model.ids import ProjectId

ROLES = tuple(Role)

POLICIES = """
@id("viewer") permit (principal, action in Action::"viewer", resource is Scope)
when { principal.viewer.contains(resource) || principal.viewer.contains(Scope::"platform") };

@id("operator") permit (principal, action in Action::"operator", resource is Scope)
when { principal.operator.contains(resource) || principal.operator.contains(Scope::"platform") };

@id("editor") permit (principal, action in Action::"editor", resource is Scope)
when { principal.editor.contains(resource) || principal.editor.contains(Scope::"platform") };

@id("admin") permit (principal, action in Action::"admin", resource is Scope)
when { principal.admin.contains(resource) || principal.admin.contains(Scope::"platform") };

@id("own") permit (principal, action in Action::"own", resource is User) when { principal == resource };

@id("token-actions") forbid (principal, action, resource) unless { context.token_allows };

@id("token-project") forbid (principal, action, resource is Scope)
when { context has token_project && context.token_project != resource };
"""
"""`Action::"viewer"` is the group of what a viewer may do; each group contains the smaller ones."""


def allowed(caller: Caller, scope: str, action: str) -> bool:
    """Whether the caller may do `action` in `scope` (`PLATFORM` or a project's id). Marks nothing as checked."""
    return _decide(caller.principal, [scope], action)[0]


def require(caller: Caller, scope: str, *, missing: NacreError | None = None, action: str | None = None) -> None:
    """Raise unless the caller may do the declared action (or `action` as well) in `scope`.

    Raises `missing` if the caller may not even view the noun there, ForbiddenError otherwise.
    """
    caller.checked = True
    for asked in {caller.action, action or caller.action}:
        if allowed(caller, scope, asked):
            continue
        if missing is not None and not _may_view(caller.principal, scope, asked):
            raise missing
        raise _forbidden(caller, scope, asked)


def may_view(caller: Caller, scope: str, noun: str) -> bool:
    """Whether the caller may know of things of this noun in `scope`. Marks nothing as checked."""
    return _may_view(caller.principal, scope, f"{noun}:view")


def require_own(caller: Caller) -> None:
    """Raise ForbiddenError unless the token may be used for the declared action on its own user's things."""
    caller.checked = True
    oneself = f"User::{json.dumps(caller.principal.user)}"
    if not _ask(caller.principal, oneself, caller.action):
        raise _forbidden(caller, PLATFORM, caller.action)


def visible_projects(caller: Caller) -> frozenset[ProjectId] | None:
    """Return the projects whose objects of the declared action's noun the caller may view; None means all.

    Raises ForbiddenError if the token is not for the declared action.
    """
    caller.checked = True
    principal = caller.principal
    if not action_allowed(principal.token_actions, caller.action):
        raise _forbidden(caller, PLATFORM, caller.action)
    view = _view_of(caller.action)
    if principal.token_project is None and _decide(_unnarrowed(principal), [PLATFORM], view)[0]:
        return None
    scopes: Sequence[str] = sorted({grant.scope for grant in principal.grants} - {PLATFORM})
    if principal.token_project is not None:
        scopes = [principal.token_project]
    seen = _decide(_unnarrowed(principal), scopes, view)
    return frozenset(ProjectId(scope) for scope, yes in zip(scopes, seen, strict=True) if yes)


def _may_view(principal: Principal, scope: str, action: str) -> bool:
    """Seeing that an object exists follows from roles and the token's project, not from the token's actions."""
    return _decide(_unnarrowed(principal), [scope], _view_of(action))[0]


def _view_of(action: str) -> str:
    view = f"{action.split(':', 1)[0]}:view"
    return view if view in ACTIONS else action


def _unnarrowed(principal: Principal) -> Principal:
    return Principal(
        user=principal.user,
        user_name=principal.user_name,
        grants=principal.grants,
        token_project=principal.token_project,
    )


def _forbidden(caller: Caller, scope: str, action: str) -> ForbiddenError:
    if not action_allowed(caller.principal.token_actions, action):
        return ForbiddenError(
            "token_not_for_action",
            f"this token may not be used for {action}",
            hint=f"use a token whose actions include {action}",
        )
    role = ACTIONS.get(action, Role.ADMIN)
    where = "on the platform" if scope == PLATFORM else "in this project"
    return ForbiddenError(
        "forbidden", f"{action} is not allowed {where}", hint=f"ask an administrator for the role {role} {where}"
    )


def _decide(principal: Principal, scopes: Iterable[str], action: str) -> list[bool]:
    return [_ask(principal, f"Scope::{json.dumps(scope)}", action) for scope in scopes]


def _ask(principal: Principal, resource: str, action: str) -> bool:
    grants = tuple((grant.role, grant.scope) for grant in principal.grants)
    token_allows = action_allowed(principal.token_actions, action)
    return _answer(principal.user, grants, principal.token_project, token_allows, resource, action)


@lru_cache(maxsize=1 << 15)
def _answer(
    user: str,
    grants: tuple[tuple[Role, str], ...],
    token_project: str | None,
    token_allows: bool,
    resource: str,
    action: str,
) -> bool:
    """Remembered, because it follows from nothing but what is given."""
    context: dict[str, object] = {"token_allows": token_allows}
    if token_project is not None:
        context["token_project"] = {"__entity": {"type": "Scope", "id": token_project}}
    request: dict[str, object] = {
        "principal": f"User::{json.dumps(user)}",
        "action": f"Action::{json.dumps(action)}",
        "resource": resource,
        "context": context,
    }
    return cedarpy.is_authorized(request, _policies(), _entities(user, grants)).allowed


@cache
def _policies() -> cedarpy.PolicySet:
    return cedarpy.PolicySet.from_str(POLICIES)


@cache
def _actions() -> cedarpy.Entities:
    """Every action as a member of the group of its least role, and each group as a member of the next larger one."""
    entities: list[dict[str, object]] = []

    def add(name: str, *groups: str) -> None:
        parents = [{"type": "Action", "id": group} for group in groups]
        entities.append({"uid": {"type": "Action", "id": name}, "attrs": {}, "parents": parents})

    for role, larger in zip(ROLES, [*ROLES[1:], None], strict=True):
        add(role, *([larger] if larger is not None else []))
    add("own")
    for action in ACTIONS.keys() | OWN_ACTIONS:
        role_group = [ACTIONS[action]] if action in ACTIONS else []
        add(action, *role_group, *(["own"] if action in OWN_ACTIONS else []))
    return cedarpy.Entities.from_json_str(json.dumps(entities))


@lru_cache(maxsize=1024)
def _entities(user: str, grants: tuple[tuple[Role, str], ...]) -> cedarpy.Entities:
    held: dict[str, list[object]] = {role: [] for role in ROLES}
    for role, scope in grants:
        held[role].append({"__entity": {"type": "Scope", "id": scope}})
    entity: dict[str, object] = {"uid": {"type": "User", "id": user}, "attrs": held, "parents": []}
    return _actions().with_added_json_str(json.dumps([entity]))

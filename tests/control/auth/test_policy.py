"""Who may do what: every role, every action, every scope, and tokens that narrow."""

from dataclasses import replace

import cedarpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.control.auth import policy
from nacre.control.auth.actions import ACTIONS, OWN_ACTIONS
from nacre.control.auth.principals import PLATFORM, Caller, Grant, Principal
from nacre.errors import ForbiddenError, NotFoundError
from nacre.model.access import Role, action_allowed
from nacre.model.ids import ProjectId, UserId

A, B = ProjectId("prj-a"), ProjectId("prj-b")
SCOPES = (PLATFORM, A, B)
RANK = {role: rank for rank, role in enumerate(Role)}
MISSING = NotFoundError("vm_not_found", "no", hint="no")

grants_of_a_user = st.frozensets(st.tuples(st.sampled_from(list(Role)), st.sampled_from(SCOPES)), max_size=4)
patterns = st.sampled_from([("*:*",), ("vm:*",), ("*:view", "*:list"), ("vm:start", "image:create"), ("node:*",)])


def principal(*held: tuple[Role, str]) -> Principal:
    grants = tuple(Grant(role=role, scope=scope) for role, scope in held)
    return Principal(user=UserId("usr-x"), user_name="x", grants=grants)


def asks(who: Principal, action: str) -> Caller:
    return Caller(principal=who, action=action)


def expected(who: Principal, action: str, scope: str) -> bool:
    """The rules once more, as simply as they can be said."""
    if not action_allowed(who.token_actions, action):
        return False
    if who.token_project is not None and who.token_project != scope:
        return False
    return any(grant.scope in {scope, PLATFORM} and RANK[grant.role] >= RANK[ACTIONS[action]] for grant in who.grants)


@pytest.mark.parametrize("action", sorted(ACTIONS))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_in_a_project_allows_its_actions_there_and_nowhere_else(role: Role, action: str) -> None:
    who = principal((role, A))
    assert policy.allowed(asks(who, action), A, action) == (RANK[role] >= RANK[ACTIONS[action]])
    assert not policy.allowed(asks(who, action), B, action)
    assert not policy.allowed(asks(who, action), PLATFORM, action)


@given(
    held=grants_of_a_user,
    action=st.sampled_from(sorted(ACTIONS)),
    scope=st.sampled_from(SCOPES),
    actions=patterns,
    project=st.sampled_from([None, A, B]),
)
def test_every_decision_is_what_grants_and_token_say(
    held: frozenset[tuple[Role, str]], action: str, scope: str, actions: tuple[str, ...], project: ProjectId | None
) -> None:
    who = replace(principal(*held), token_actions=actions, token_project=project)
    assert policy.allowed(asks(who, action), scope, action) == expected(who, action, scope)


@given(held=grants_of_a_user, project=st.sampled_from([None, A, B]))
def test_the_visible_projects_are_those_where_viewing_is_allowed(
    held: frozenset[tuple[Role, str]], project: ProjectId | None
) -> None:
    who = replace(principal(*held), token_project=project)
    visible = policy.visible_projects(asks(who, "vm:list"))
    for scope in (A, B):
        assert (visible is None or scope in visible) == expected(who, "vm:view", scope)
    assert (visible is None) == expected(who, "vm:view", PLATFORM)


@pytest.mark.parametrize(
    ("role", "least", "most"),
    [
        (Role.VIEWER, "vm:view", "vm:start"),
        (Role.OPERATOR, "vm:console", "vm:create"),
        (Role.EDITOR, "vm:delete", "project:update"),
        (Role.ADMIN, "grant:create", None),
    ],
)
def test_the_roles_are_what_the_documentation_says(role: Role, least: str, most: str | None) -> None:
    who = principal((role, A))
    assert policy.allowed(asks(who, least), A, least)
    assert most is None or not policy.allowed(asks(who, most), A, most)


def test_what_may_not_be_viewed_is_missing_and_what_may_be_viewed_is_forbidden() -> None:
    caller = asks(principal((Role.VIEWER, A)), "vm:start")
    with pytest.raises(NotFoundError):
        policy.require(caller, B, missing=MISSING)
    with pytest.raises(ForbiddenError) as refused:
        policy.require(caller, A, missing=MISSING)
    assert refused.value.code == "forbidden"
    assert "operator" in refused.value.hint


def test_a_token_for_other_actions_is_forbidden_and_says_so_without_hiding_the_object() -> None:
    who = replace(principal((Role.ADMIN, A)), token_actions=("vm:view",))
    with pytest.raises(ForbiddenError) as refused:
        policy.require(asks(who, "vm:start"), A, missing=MISSING)
    assert refused.value.code == "token_not_for_action"
    with pytest.raises(ForbiddenError):
        policy.visible_projects(asks(who, "image:list"))


def test_a_token_of_another_project_finds_nothing() -> None:
    who = replace(principal((Role.ADMIN, PLATFORM)), token_project=B)
    with pytest.raises(NotFoundError):
        policy.require(asks(who, "vm:start"), A, missing=MISSING)
    assert policy.visible_projects(asks(who, "vm:list")) == {B}
    policy.require(asks(who, "vm:start"), B, missing=MISSING)


def test_an_additional_action_is_asked_as_well_as_the_declared_one() -> None:
    who = replace(principal((Role.ADMIN, PLATFORM)), token_actions=("token:*",))
    with pytest.raises(ForbiddenError):
        policy.require(asks(who, "token:create"), PLATFORM, action="user:update")
    policy.require(asks(principal((Role.ADMIN, PLATFORM)), "token:create"), PLATFORM, action="user:update")


def test_everyone_may_look_after_oneself_but_only_with_a_token_for_it() -> None:
    nobody = principal()
    for action in OWN_ACTIONS:
        policy.require_own(asks(nobody, action))
    with pytest.raises(ForbiddenError):
        policy.require_own(asks(nobody, "vm:list"))
    with pytest.raises(ForbiddenError):
        policy.require_own(asks(replace(nobody, token_actions=("vm:*",)), "me:view"))


def test_asking_marks_the_request_as_checked_even_when_refused() -> None:
    refused = asks(principal(), "vm:list")
    with pytest.raises(ForbiddenError):
        policy.require(refused, A)
    listed, own, peeked = (asks(principal(), action) for action in ("vm:list", "me:view", "vm:list"))
    policy.visible_projects(listed)
    policy.require_own(own)
    policy.allowed(peeked, A, "vm:list")
    assert [c.checked for c in (refused, listed, own, peeked)] == [True, True, True, False]


def test_an_unknown_action_is_allowed_to_nobody() -> None:
    assert not policy.allowed(asks(principal((Role.ADMIN, PLATFORM)), "vm:explode"), PLATFORM, "vm:explode")


def test_the_policies_are_valid_by_the_schema_of_their_entities() -> None:
    roles = list(Role)
    lines = ["entity Scope;", "entity User { " + ", ".join(f"{role}: Set<Scope>" for role in roles) + " };"]
    lines += [
        f'action "{role}"' + (f' in ["{larger}"]' if larger else "") + ";"
        for role, larger in zip(roles, [*roles[1:], None], strict=True)
    ]
    lines.append('action "own";')
    context = "{ token_allows: Bool, token_project?: Scope }"
    for action in sorted(ACTIONS.keys() | OWN_ACTIONS):
        groups = [f'"{ACTIONS[action]}"'] if action in ACTIONS else []
        groups += ['"own"'] if action in OWN_ACTIONS else []
        applies = f"appliesTo {{ principal: User, resource: [Scope, User], context: {context} }}"
        lines.append(f'action "{action}" in [{", ".join(groups)}] {applies};')
    result = cedarpy.validate_policies(policy.POLICIES, "\n".join(lines))
    assert result.validation_passed, [str(error) for error in result.errors]

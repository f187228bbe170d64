"""People and what they may do, made directly in the database. For every test that needs a caller."""

from dataclasses import replace

from nacre.control.auth.principals import PLATFORM, Caller, Grant, Principal
from nacre.control.services import grants, projects, users
from nacre.control.store.db import Database, Tx
from nacre.model.access import Role
from nacre.model.events import SYSTEM
from nacre.model.ids import ProjectId, TokenId, UserId

ADMIN = Principal(
    user=UserId("usr-0000000000000000000000root"),
    user_name="root",
    grants=(Grant(role=Role.ADMIN, scope=PLATFORM),),
)


def admin(action: str) -> Caller:
    """An administrator of the platform who is no row: for what only asks the policy."""
    return Caller(principal=ADMIN, action=action, request_id="test")


def caller(principal: Principal, action: str) -> Caller:
    """`principal` in a request of its own."""
    return Caller(principal=principal, action=action, request_id="test")


async def make_user(tx: Tx, name: str, *held: tuple[Role, str]) -> Principal:
    """Insert a user with roles on `PLATFORM` or on projects (names or ids)."""
    user = await users.add(tx, name=name, display_name="")
    bound: list[Grant] = []
    for role, where in held:
        project = None if where == PLATFORM else await projects.resolve(tx, where)
        await grants.add(tx, user=user, role=role, project=project, actor=SYSTEM)
        bound.append(Grant(role=role, scope=PLATFORM if project is None else project.id))
    return Principal(user=user.id, user_name=user.name, grants=tuple(bound))


async def user(database: Database, name: str, *held: tuple[Role, str]) -> Principal:
    """The same in a transaction of its own."""
    async with database.write() as tx:
        return await make_user(tx, name, *held)


def narrowed(
    principal: Principal, *, actions: tuple[str, ...] = ("*:*",), project: ProjectId | None = None
) -> Principal:
    """The same user through a token that may do less."""
    return replace(
        principal, token=TokenId("tok-00000000000000000000000000"), token_actions=actions, token_project=project
    )

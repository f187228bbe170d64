"""Names of what exists, for shell completion. Asks the server briefly and keeps quiet when it cannot."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from nacre.cli import profile
from nacre.cli.session import Session
from nacre.errors import NacreError

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

    from nacre.client.api import Nacre

PATIENCE_S = 2.0
MOST = 500

Named = list[tuple[str, str]]
"""Names with a word about each."""

Completer = Callable[["CompletionContext"], Named]


async def _vms(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    return [(vm.name, vm.phase.value) for vm in await nacre.vms.all(Query(project=project, limit=MOST))]


async def _images(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    return [(image.name, image.state.value) for image in await nacre.images.all(Query(project=project, limit=MOST))]


async def _templates(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    return [(found.name, found.description) for found in await nacre.templates.all(Query(project=project, limit=MOST))]


async def _instance_types(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    found = await nacre.instance_types.all(Query(project=project, limit=MOST))
    return [(one.name, one.description) for one in found]


async def _volumes(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    return [(one.name, one.phase.value) for one in await nacre.volumes.all(Query(project=project, limit=MOST))]


async def _checkpoints(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    found: Named = []
    for vm in await nacre.vms.all(Query(project=project, limit=MOST)):
        if vm.checkpoints:
            of = await nacre.vms.checkpoints(vm.id)
            found += [(f"{vm.name}/{one.name}", one.description or one.phase.value) for one in of]
    return found


async def _checkpoints_of(nacre: "Nacre", project: str) -> Named:
    named = await _checkpoints(nacre, project)
    return [(name.partition("/")[2], f"of {name.partition('/')[0]}: {about}") for name, about in named]


async def _pools(nacre: "Nacre", project: str) -> Named:
    del project
    return [(pool.name, pool.path) for pool in await nacre.pools.all()]


async def _nodes(nacre: "Nacre", project: str) -> Named:
    del project
    return [(node.name, node.state.value) for node in await nacre.nodes.all()]


async def _projects(nacre: "Nacre", project: str) -> Named:
    del project
    return [(found.name, found.description) for found in await nacre.projects.all()]


async def _users(nacre: "Nacre", project: str) -> Named:
    del project
    return [(user.name, user.display_name) for user in await nacre.users.all()]


async def _operations(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    del project
    found = await nacre.operations.all(Query(sort="-created_at", limit=50))
    return [(operation.id, f"{operation.type} {operation.object_name}") for operation in found]


async def _moves(nacre: "Nacre", project: str) -> Named:
    from nacre.client.collection import Query

    del project
    found = await nacre.moves.all(Query(sort="-created_at", limit=50))
    return [(move.id, f"{move.vm.name} {move.state}") for move in found]


def _ask(list_names: "Callable[[Nacre, str], Awaitable[Named]]") -> Completer:
    def complete(context: "CompletionContext") -> Named:
        def option(name: str) -> str:
            found = context.get(name)
            return (found.raw or "") if found is not None else ""

        session = Session(
            output="table",
            project_option=option("--project") or None,
            context_name=option("--context"),
            environment=os.environ,
        )

        async def ask() -> Named:
            async with asyncio.timeout(PATIENCE_S), session.client() as nacre:
                return await list_names(nacre, session.project)

        try:
            return asyncio.run(ask())
        except (NacreError, TimeoutError):
            return []

    return complete


def contexts(context: "CompletionContext") -> Named:
    """Names of contexts in the profile."""
    del context
    try:
        found = profile.load(profile.location(os.environ))
    except NacreError:
        return []
    return [(name, known.url) for name, known in found.contexts.items()]


vms = _ask(_vms)
images = _ask(_images)
templates = _ask(_templates)
instance_types = _ask(_instance_types)
volumes = _ask(_volumes)
checkpoints = _ask(_checkpoints)
checkpoints_of = _ask(_checkpoints_of)
pools = _ask(_pools)
nodes = _ask(_nodes)
projects = _ask(_projects)
users = _ask(_users)
operations = _ask(_operations)
moves = _ask(_moves)

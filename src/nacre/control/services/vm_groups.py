"""Rules between machines of a project: who must wait for whom before writing that a machine goes somewhere.

A machine can break a rule only if it has one itself or carries labels that another's rule speaks of, and rules never
reach beyond a project. So whoever is about to write down where a machine goes takes the group lock of its project
first, before any node or machine: exclusively if the machine has a required rule, shared if it merely has labels. Of
two writers that could hurt each other at least one has a rule, hence holds the lock exclusively, and the other waits
for its commit. What both look at with the lock held stays as it is until they commit. SQLite has one writer anyway.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Request
from nacre.control.services import fleet
from nacre.control.store import placements
from nacre.control.store.db import Tx
from nacre.model.ids import NodeId, ProjectId


async def hold(tx: Tx, requests: Iterable[Request]) -> frozenset[ProjectId]:
    """Take the group locks that these machines need, and return the projects that they are of."""
    exclusive: dict[ProjectId, bool] = {}
    for request in requests:
        if has_rules(request):
            exclusive[request.project] = True
        elif request.labels:
            exclusive.setdefault(request.project, False)
    await placements.hold_groups(tx, exclusive)
    return frozenset(exclusive)


async def refusal(tx: Tx, request: Request, node: NodeId, *, random: Callable[[], float]) -> str:
    """Return why a machine must not go to a node as things stand now, or an empty text. Its group must be held.

    Reads the machines of the project. For one machine at a time; the placer follows them instead.
    """
    if not has_rules(request) and not request.labels:
        return ""
    now = await fleet.load(tx, project=request.project)
    decision = place(replace(request, only=node), now, random=random)
    return "" if decision.node is not None else summary(decision)[1]


def has_rules(request: Request) -> bool:
    """Whether it requires anything of where others are. Pure."""
    asked = request.placement
    return any(term.required for term in (*asked.affinity, *asked.anti_affinity, *asked.spread))


def leans_on_others(request: Request) -> bool:
    """Whether its place is right only if the others of its batch have got theirs. Pure."""
    asked = request.placement
    return any(term.required for term in (*asked.affinity, *asked.spread))

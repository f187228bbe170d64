"""Events: told by services in the transaction of what happened, read by lists and streams from any cursor."""

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.store import events as store
from nacre.control.store import projects
from nacre.control.store.db import Read
from nacre.control.store.events import emit, flush, latest
from nacre.model.events import Event
from nacre.schema.common import DEFAULT_PAGE

MAX_CURSOR = (1 << 63) - 1


async def list_events(
    rd: Read,
    caller: Caller,
    *,
    after: int | None = None,
    before: int | None = None,
    noun: str | None = None,
    object: str | None = None,  # noqa: A002 - the word of the wire
    project: str | None = None,
    type: str | None = None,  # noqa: A002 - the word of the wire
    limit: int = DEFAULT_PAGE,
) -> list[Event]:
    """Return events that the caller may see, in the order in which they were committed.

    With `after`, the first `limit` after that cursor; without, the last `limit` (before cursor `before`).
    Events that belong to no project are for those who may view the whole platform. `project` is a name or
    id, and so is `object`: the name that it had then.
    """
    visible = policy.visible_projects(caller)
    if project is not None:
        row = await projects.get(rd, project)
        if row is None or (visible is not None and row.id not in visible):
            return []
        visible = frozenset({row.id})
    wanted = {"noun": noun, "type": type}
    return await store.span(
        rd,
        visible=visible,
        after=None if after is None else min(after, MAX_CURSOR),
        before=None if before is None else min(before, MAX_CURSOR),
        limit=limit,
        about=object,
        equal={column: value for column, value in wanted.items() if value is not None},
    )


__all__ = ["emit", "flush", "latest", "list_events"]

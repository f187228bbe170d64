"""Projects: what owns machines and images, and where roles are bound."""

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.store import projects as store
from nacre.control.store.db import Read
from nacre.control.store.projects import ProjectRow
from nacre.errors import NotFoundError


def missing(ref: str) -> NotFoundError:
    """Return the error for a project that is not there, or that the caller may not know of."""
    return NotFoundError(
        "project_not_found", f"there is no project {ref}", hint="list yours with `nacre project list`", field="project"
    )


async def resolve(rd: Read, ref: str) -> ProjectRow:
    """Return the project with this name or id. Raises NotFoundError. Asks no policy: the caller of this must."""
    row = await store.get(rd, ref)
    if row is None:
        raise missing(ref)
    return row


async def require(rd: Read, caller: Caller, ref: str) -> ProjectRow:
    """Return the project with this name or id if the caller may do the declared action in it.

    Raises NotFoundError if the caller may not even view it, ForbiddenError if it is only the action.
    """
    row = await store.get(rd, ref)
    if row is None:
        caller.checked = True
        raise missing(ref)
    policy.require(caller, row.id, missing=missing(ref))
    return row

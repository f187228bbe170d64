"""A node that a caller names, if the caller may do the declared action on the platform. Used by services of nodes."""

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.store import nodes
from nacre.control.store.db import Read
from nacre.control.store.nodes import NodeRow
from nacre.errors import NotFoundError


async def find(rd: Read, caller: Caller, ref: str, *, lock: bool = False) -> NodeRow:
    """Return the node with this name or id. Raises NotFoundError."""
    policy.require(caller, PLATFORM)
    row = await nodes.get(rd, ref, lock=lock)
    if row is None:
        raise NotFoundError("node_not_found", f"there is no node {ref}", hint="list them with `nacre node list`")
    return row

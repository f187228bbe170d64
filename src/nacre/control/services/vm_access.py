"""The way to a running machine that a caller names: which node it is on, and whether that can be asked."""

from nacre.control.auth.principals import Caller
from nacre.control.services import vms
from nacre.control.services.vm_ways import Placed, way
from nacre.control.store.db import Read

__all__ = ["Placed", "placed"]


async def placed(rd: Read, caller: Caller, ref: str, *, kind: str, project: str | None = None) -> Placed:
    """Return a machine to whose node a stream of this kind can be opened. Raises NotFoundError, and what `way` does."""
    return await way(rd, await vms.resolve(rd, caller, ref, project), kind)

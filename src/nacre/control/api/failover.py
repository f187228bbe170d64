"""/v1/failover: nodes that are lost, and what of theirs is started elsewhere."""

from litestar import Response, get, post
from litestar.params import JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.services import failover
from nacre.schema.failover import FailoverConfirm, FailoverOut
from nacre.schema.nodes import NodeOut


@get("/v1/failover", opt={"action": "failover:view"})
async def show_failover(call: TheCall) -> Response[FailoverOut]:
    """Show which nodes are waited for, whether any is held back, and what is still to be started elsewhere."""
    watching = call.parts.failover
    return await call.read(lambda rd, caller: failover.status(rd, caller, watching))


@post("/v1/failover/confirm", opt={"action": "failover:confirm"}, status_code=200)
async def confirm_failover(call: TheCall, data: JSONBody[FailoverConfirm]) -> Response[NodeOut]:
    """Give up a node that is out of reach, although so many are that it would be held back."""
    watching = call.parts.failover
    return await call.change(lambda tx, caller: failover.confirm(tx, caller, data, watching), NodeOut)


ROUTES = (show_failover, confirm_failover)

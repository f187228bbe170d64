"""/v1/capabilities."""

from litestar import Response, get

from nacre.control.api.calls import TheCall
from nacre.control.services import capabilities
from nacre.schema.capabilities import CapabilitiesOut


@get("/v1/capabilities", opt={"action": "hypervisor:list"})
async def list_capabilities(call: TheCall) -> Response[CapabilitiesOut]:
    """Say what the hypervisors of all nodes can do for machines and, for what they cannot, why."""
    return await call.read(capabilities.show)


ROUTES = (list_capabilities,)

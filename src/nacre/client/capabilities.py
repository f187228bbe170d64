"""What hypervisors can do, through the API."""

from nacre.client.transport import Transport
from nacre.schema.capabilities import CapabilitiesOut


class Capabilities:
    """`/v1/capabilities`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def show(self) -> CapabilitiesOut:
        """Return what every hypervisor can do, and on how many nodes."""
        return await self._transport.read("/v1/capabilities", CapabilitiesOut)

"""The client itself: one object with one attribute per noun.

async with Nacre("http://127.0.0.1:7480", token) as nacre:
    accepted = await nacre.vms.create(VmCreate(name="web", image="tiny"))
    await nacre.operations.wait(accepted.operation, timeout_s=60)
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from nacre.client.access import Access, Grants, Projects, Tokens, Users
from nacre.client.capabilities import Capabilities
from nacre.client.commands import Command, open_command
from nacre.client.console import Console, open_console
from nacre.client.events import Events
from nacre.client.failover import Failover
from nacre.client.images import Images
from nacre.client.moves import Moves
from nacre.client.nodes import Nodes
from nacre.client.operations import Operations
from nacre.client.scheduling import Scheduler
from nacre.client.templates import InstanceTypes, Templates
from nacre.client.transport import ATTEMPTS, Transport
from nacre.client.vms import Vms
from nacre.client.volumes import Pools, Volumes
from nacre.model.commands import ExecRequest


class Nacre:
    """A control plane, as one user. Use it as a context manager."""

    def __init__(self, url: str, token: str | None = None, *, ca: Path | None = None, attempts: int = ATTEMPTS) -> None:
        """`ca` is a file with the certificate authority of an https address; the system's ones if not given."""
        self._transport = Transport(url, token, ca=ca, attempts=attempts)
        self.access = Access(self._transport)
        self.projects = Projects(self._transport)
        self.users = Users(self._transport)
        self.grants = Grants(self._transport)
        self.tokens = Tokens(self._transport)
        self.capabilities = Capabilities(self._transport)
        self.nodes = Nodes(self._transport)
        self.moves = Moves(self._transport)
        self.failover = Failover(self._transport)
        self.images = Images(self._transport)
        self.vms = Vms(self._transport)
        self.templates = Templates(self._transport)
        self.instance_types = InstanceTypes(self._transport)
        self.pools = Pools(self._transport)
        self.volumes = Volumes(self._transport)
        self.scheduler = Scheduler(self._transport)
        self.events = Events(self._transport)
        self.operations = Operations(self._transport)

    @property
    def url(self) -> str:
        """The address of the control plane."""
        return self._transport.url

    def console(self, vm: str, *, project: str | None = None) -> AbstractAsyncContextManager[Console]:
        """Open the serial console of a machine."""
        return open_console(self._transport, vm, project=project)

    def display(self, vm: str, *, project: str | None = None) -> AbstractAsyncContextManager[Console]:
        """Open the screen of a machine: the bytes of RFB."""
        return open_console(self._transport, vm, project=project, what="display")

    def command(
        self, vm: str, request: ExecRequest, stdin: AsyncIterator[bytes] | None = None, *, project: str | None = None
    ) -> AbstractAsyncContextManager[Command]:
        """Run a command in a guest, with its streams."""
        return open_command(self._transport, vm, request, stdin, project=project)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

"""What the API is given by `app`: everything that a handler may touch, made elsewhere and passed in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from litestar.connection import ASGIConnection
from litestar.datastructures import State

from nacre.control.api.metrics import Metrics
from nacre.control.auth.principals import Caller
from nacre.control.request import Requests
from nacre.control.settings import Settings
from nacre.model.ids import NodeId, VmId
from nacre.model.images import Role
from nacre.schema.images import UploadOut

Connection = ASGIConnection[Any, Any, Any, State]


class Stream(Protocol):
    """One open stream to a machine, at its start."""

    async def send(self, data: bytes) -> None:
        """Type `data`. Raises UnavailableError when the stream is gone."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """What the guest prints, until the stream ends."""
        ...


class Streams(Protocol):
    """Opens streams to machines through the agents of their nodes. Raises UnavailableError if a node is out of reach."""

    def console(self, node: NodeId, vm: VmId) -> AbstractAsyncContextManager[Stream]:
        """Open the serial console, scrollback first."""
        ...

    def console_log(self, node: NodeId, vm: VmId, tail_bytes: int) -> AbstractAsyncContextManager[Stream]:
        """Open the end of the stored console log."""
        ...


class Uploads(Protocol):
    """Receives the content of images."""

    async def receive(
        self, caller: Caller, image: str, role: Role, offset: int, chunks: AsyncIterator[bytes], *, project: str | None
    ) -> UploadOut:
        """Append what `chunks` yields at `offset`."""
        ...


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must be true for the control plane to be ready. `reason` returns what is wrong, or None."""

    name: str
    reason: Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that handlers use."""

    version: str
    settings: Settings
    requests: Requests
    streams: Streams
    uploads: Uploads
    metrics: Metrics
    checks: Sequence[Check] = ()


def parts_of(connection: Connection) -> Parts:
    """Return the parts of the application that this connection came to."""
    parts = connection.app.state["parts"]
    assert isinstance(parts, Parts)
    return parts

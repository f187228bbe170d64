"""What the API is given by `app`: everything that a handler may touch, made elsewhere and passed in."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from litestar.connection import ASGIConnection
from litestar.datastructures import State

from nacre.control.api.metrics import Metrics
from nacre.control.auth.sealing import Sealer
from nacre.control.request import Requests
from nacre.control.services.enrolments import Joining
from nacre.control.services.failover import Watching
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.services.operations import Canceller
from nacre.control.settings import Settings
from nacre.errors import UnavailableError
from nacre.model.ids import NodeId, VmId
from nacre.protocol.messages import StreamKind

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
    """Opens streams to machines through the agents of their nodes. Raises UnavailableError when one is out of reach."""

    def open(
        self, vm: VmId, node: NodeId, kind: StreamKind, tail_bytes: int = ...
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a stream of this kind, the last `tail_bytes` of what is stored first."""
        ...


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must be true for the control plane to be ready. `reason` returns what is wrong, or None."""

    name: str
    reason: Callable[[], Awaitable[str | None]]


def _no_outage(_error: Exception) -> UnavailableError | None:
    return None


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything that handlers use."""

    version: str
    settings: Settings
    requests: Requests
    streams: Streams
    uploads: ImageUploads
    metrics: Metrics
    cancellers: Mapping[str, Canceller]
    """How the operations of a noun are taken back."""
    joining: Joining
    """What a new node must know besides its secret."""
    failover: Watching
    """What this replica has counted of nodes that are out of reach."""
    phases: Callable[[], Awaitable[Mapping[str, int] | None]]
    """How many machines are in each phase; None while the database does not answer."""
    sealer: Sealer | None = None
    """Seals what is for nodes alone."""
    checks: Sequence[Check] = ()
    outage: Callable[[Exception], UnavailableError | None] = _no_outage
    """Tells the database being away from a defect: such an exception is shown as what this returns."""


def parts_of(connection: Connection) -> Parts:
    """Return the parts of the application that this connection came to."""
    parts = connection.app.state["parts"]
    assert isinstance(parts, Parts)
    return parts

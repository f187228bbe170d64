"""Operations through the API, and waiting for one to end."""

import asyncio
from collections.abc import Callable

from nacre.client import problems
from nacre.client.collection import Collection
from nacre.client.transport import Transport
from nacre.errors import ConflictError, NacreError
from nacre.model.operations import TERMINAL, OperationState
from nacre.schema.common import OperationOut, Page

HOLD_S = 1.0
"""How long the server may keep an answer: what progress is shown is at most so old."""

Seen = Callable[[OperationOut], None]
"""Told of an operation each time it was looked at."""


def _quiet(_: OperationOut) -> None:
    """Tell nobody."""


class Operations(Collection[OperationOut]):
    """`/v1/operations`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/operations", OperationOut, Page[OperationOut])

    async def cancel(self, ref: str) -> OperationOut:
        """Call off an operation that has not taken effect. Raises ConflictError if it cannot be."""
        return await self._transport.change("POST", self.at(ref, "cancel"), OperationOut)

    async def wait(self, operation: OperationOut, *, timeout_s: float, seen: Seen = _quiet) -> OperationOut:
        """Return the operation once it has succeeded. Raises NacreError if it ends otherwise or time runs out."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + timeout_s
        while operation.state not in TERMINAL:
            seen(operation)
            left = deadline - clock.time()
            if left <= 0:
                raise problems.timed_out(f"{operation.type} of {operation.object_name}", timeout_s)
            # The server holds its answer until the operation ends, so its end is known at once.
            hold = min(HOLD_S, left)
            operation = await self._transport.read(
                self.at(operation.id), OperationOut, params=[("wait", f"{hold:.3f}")], timeout_s=hold
            )
        seen(operation)
        return check_success(operation)


def check_success(operation: OperationOut) -> OperationOut:
    """Return an operation that succeeded or still runs. Raises the error that another one ended with."""
    name = f"{operation.type} of {operation.object_name}"
    match operation.state:
        case OperationState.FAILED:
            raise NacreError(
                operation.error_code or "operation_failed",
                f"{name} failed: {operation.message}" if operation.message else f"{name} failed",
                hint=operation.hint or f"look at nacre operation show {operation.id}",
            )
        case OperationState.SUPERSEDED:
            raise ConflictError(
                "operation_superseded",
                f"{name} was overtaken by a newer change",
                hint="the newest change wins; look at the object to see what it is now",
            )
        case OperationState.CANCELLED:
            raise ConflictError("operation_cancelled", f"{name} was cancelled", hint="ask again if it is still wanted")
        case _:
            return operation

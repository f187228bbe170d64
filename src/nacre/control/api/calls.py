"""One call of the API as handlers see it: the caller, transactions, and answers with the right status and headers.

Made by `access` before the handler runs, handed to it as `call`. Statuses of success are here, of errors in `problems`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from litestar import Response
from litestar.di import NamedDependency

from nacre.control.api.parts import Parts
from nacre.control.auth.principals import Caller
from nacre.control.request import Changing, Reading, RequestContext
from nacre.model.operations import TERMINAL
from nacre.schema.common import Accepted, AcceptedBatch

T = TypeVar("T")

OK = 200
CREATED = 201
ACCEPTED = 202
NO_CONTENT = 204


class Tagged(Protocol):
    """Something with an entity tag."""

    @property
    def etag(self) -> str:
        """What If-Match is compared with."""
        ...


TaggedT = TypeVar("TaggedT", bound=Tagged)


class Call:
    """An authenticated request to a route that is not public."""

    def __init__(self, parts: Parts, context: RequestContext, secret: str, if_match: str | None) -> None:
        self.parts = parts
        self.context = context
        self.if_match = if_match
        self._secret = secret

    @property
    def caller(self) -> Caller:
        """Who asks, for what."""
        return self.context.caller

    async def refresh(self) -> None:
        """Look again whose token this is and what it may do, for calls that last. Raises UnauthenticatedError."""
        self.caller.principal = await self.parts.requests.authenticate(self._secret)

    async def show(self, work: Reading[TaggedT]) -> Response[TaggedT]:
        """Answer with one object and its entity tag."""
        shown = await self.context.read(work)
        return Response(shown, status_code=OK, headers={"ETag": shown.etag})

    async def read(self, work: Reading[T]) -> Response[T]:
        """Answer with whatever `work` reads."""
        return Response(await self.context.read(work), status_code=OK)

    async def create(
        self, work: Changing[T], answer: type[T], at: Callable[[T], str], *, secret: bool = False
    ) -> Response[T]:
        """Answer with a new object that is there at once, and where it is."""
        made = await self.context.change(work, answer, secret=secret)
        return Response(made, status_code=CREATED, headers={"Location": at(made), **_etag(made)})

    async def change(self, work: Changing[T], answer: type[T]) -> Response[T]:
        """Answer with an object after a change that took effect at once."""
        changed = await self.context.change(work, answer)
        return Response(changed, status_code=OK, headers=_etag(changed))

    async def remove(self, work: Changing[None]) -> None:
        """Remove something at once."""
        await self.context.change(work, type(None))

    async def accept(
        self,
        work: Changing[Accepted[TaggedT]],
        answer: type[Accepted[TaggedT]],
        again: Callable[[str], Reading[TaggedT]],
        wait_s: float,
    ) -> Response[Accepted[TaggedT]]:
        """Answer that a change is durable, after waiting up to `wait_s` seconds for it to be true.

        `again` reads the object by id, to show it as it is after the wait.
        """
        accepted = await self.context.change(work, answer)
        if wait_s > 0:
            accepted = await self._settle(accepted, again, wait_s)
        ended = accepted.operation.state in TERMINAL
        status = OK if wait_s > 0 and ended else ACCEPTED
        return Response(accepted, status_code=status, headers=_of_accepted(accepted))

    async def accept_batch(
        self,
        work: Changing[AcceptedBatch[TaggedT]],
        answer: type[AcceptedBatch[TaggedT]],
        again: Callable[[str], Reading[TaggedT]],
        wait_s: float,
    ) -> Response[AcceptedBatch[TaggedT]]:
        """The same for a change of one object or several, for all of which it waits."""
        batch = await self.context.change(work, answer)
        parts: list[Accepted[TaggedT]] = [batch, *batch.more]
        if wait_s > 0:
            clock = asyncio.get_running_loop()
            deadline = clock.time() + wait_s
            # One after the other: what ends meanwhile is seen at once when its turn comes.
            parts = [await self._settle(part, again, max(0.0, deadline - clock.time())) for part in parts]
        first, *more = parts
        batch = AcceptedBatch(
            resource=first.resource, generation=first.generation, operation=first.operation, more=more
        )
        ended = all(part.operation.state in TERMINAL for part in parts)
        status = OK if wait_s > 0 and ended else ACCEPTED
        return Response(batch, status_code=status, headers=_of_accepted(batch))

    async def _settle(
        self, accepted: Accepted[TaggedT], again: Callable[[str], Reading[TaggedT]], wait_s: float
    ) -> Accepted[TaggedT]:
        operation = await self.context.settled(accepted.operation, wait_s)
        resource = await self.context.read_if_there(again(operation.object_id))
        return Accepted(
            resource=accepted.resource if resource is None else resource,
            generation=accepted.generation,
            operation=operation,
        )


def _of_accepted(accepted: Accepted[TaggedT]) -> dict[str, str]:
    return {"Location": f"/v1/operations/{accepted.operation.id}", "ETag": accepted.resource.etag}


def _etag(value: object) -> dict[str, str]:
    etag = getattr(value, "etag", None)
    return {"ETag": etag} if isinstance(etag, str) else {}


TheCall = NamedDependency[Call]
"""How a handler asks for its call."""

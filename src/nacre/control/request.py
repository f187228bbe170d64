"""One request behind its edge: who asks, its one transaction, its idempotency key, and waiting for what it began.

Made by `api` for each request. Knows nothing of HTTP.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from nacre.control.auth import tokens
from nacre.control.auth.principals import Caller, Principal
from nacre.control.services import claim, idempotency, operations, vms
from nacre.control.store.db import Database, Read, Tx
from nacre.control.wake import OPERATIONS
from nacre.errors import ConflictError, NotFoundError
from nacre.model.operations import TERMINAL
from nacre.schema.access import ClaimBody, TokenCreated
from nacre.schema.common import OperationOut

T = TypeVar("T")

Reading = Callable[[Read, Caller], Awaitable[T]]
Changing = Callable[[Tx, Caller], Awaitable[T]]

LOOK_AGAIN_S = 5.0
"""Bells may be lost: while waiting, look this often anyway."""


class UncheckedRequestError(Exception):
    """A service answered without asking whether the caller may. A defect: nothing is committed, nothing is shown."""


class _UndoneError(Exception):
    """Takes back what was only to be seen."""


@dataclass(frozen=True, kw_only=True)
class Once:
    """An idempotency key, and what it was first used for."""

    key: str
    fingerprint: str


class Requests:
    """Makes the context of each request, and answers what a control plane must know about its own database."""

    def __init__(self, db: Database, stopping: asyncio.Event) -> None:
        self.db = db
        self.stopping = stopping
        """Set when the program shuts down: whoever waits on behalf of a client stops waiting."""

    async def authenticate(self, secret: str) -> Principal:
        """Return whose token this is. Raises UnauthenticatedError."""
        return await tokens.authenticate(self.db, secret, self.db.clock)

    async def redeem_claim(self, body: ClaimBody, request_id: str) -> TokenCreated:
        """Make the first administrator. Raises UnauthenticatedError."""
        async with self.db.write() as tx:
            return await claim.redeem(tx, body, request_id=request_id)

    async def ping(self) -> None:
        """Ask the database something. Raises when it does not answer."""
        async with self.db.read() as rd:
            await operations.get(rd, "")

    async def phases(self) -> dict[str, int]:
        """Return how many machines are in each phase, whoever owns them. For the operator's metrics."""
        async with self.db.read() as rd:
            return await vms.phases(rd)

    def begin(self, caller: Caller, once: Once | None) -> "RequestContext":
        """Return the context of a caller's request."""
        return RequestContext(self.db, caller, once=once, stopping=self.stopping)


class RequestContext:
    """What a handler needs to call services for one caller."""

    def __init__(self, db: Database, caller: Caller, *, once: Once | None, stopping: asyncio.Event) -> None:
        self.db = db
        self.caller = caller
        self._once = once
        self._stopping = stopping

    async def read(self, work: Reading[T]) -> T:
        """Return what `work` reads in one transaction."""
        async with self.db.read() as rd:
            result = await work(rd, self.caller)
        self.check()
        return result

    async def read_if_there(self, work: Reading[T]) -> T | None:
        """The same, or None if what is read is not there (any more)."""
        try:
            return await self.read(work)
        except NotFoundError:
            return None

    async def change(self, work: Changing[T], answer: type[T], *, secret: bool = False) -> T:
        """Return what `work` did in one transaction, or what it did when the same key was used before.

        With `secret` the answer is not kept: it would put a secret into the database.
        """
        async with self.db.write() as tx:
            known = await self._replay(tx, secret=secret)
            if known is not None:
                return msgspec.json.decode(known, type=answer)
            result = await work(tx, self.caller)
            self.check()
            await self._remember(tx, result, secret=secret)
        return result

    async def rehearse(self, work: Changing[T]) -> T:
        """Return what `work` does in one transaction of which nothing remains."""
        result: list[T] = []
        try:
            async with self.db.write() as tx:
                result.append(await work(tx, self.caller))
                self.check()
                raise _UndoneError
        except _UndoneError:
            return result[0]

    async def settled(self, operation: OperationOut, wait_s: float) -> OperationOut:
        """Return the operation once it has ended, or as it stands after `wait_s` seconds or when we shut down."""
        clock = asyncio.get_running_loop()
        deadline = clock.time() + wait_s
        with self.db.wakes.listen(OPERATIONS) as bell:
            while operation.state not in TERMINAL and not self._stopping.is_set():
                async with self.db.read() as rd:
                    row = await operations.get(rd, operation.id)
                    if row is None:
                        return operation
                    operation = operations.out(row)
                left = deadline - clock.time()
                if operation.state in TERMINAL or left <= 0:
                    break
                await bell.wait(min(left, LOOK_AGAIN_S))
        return operation

    def check(self) -> None:
        """Raise UncheckedRequestError unless a service has asked whether the caller may."""
        if not self.caller.checked:
            raise UncheckedRequestError(self.caller.action)

    async def _replay(self, tx: Tx, *, secret: bool) -> bytes | None:
        """Return the body that this key was answered with before, if it was."""
        if self._once is None:
            return None
        stored = await idempotency.replay(tx, self.caller.principal, self._once.key, self._once.fingerprint)
        if stored is None:
            return None
        self.caller.checked = True  # it was, when the answer was first given to the same principal
        if secret:
            raise ConflictError(
                "secret_shown_once",
                "this key was used before; the secret in the answer was shown then and is not kept",
                hint="if it was lost, revoke what was made and make another with a new Idempotency-Key",
            )
        return stored.body

    async def _remember(self, tx: Tx, result: object, *, secret: bool) -> None:
        if self._once is None:
            return
        body = b"null" if secret else msgspec.json.encode(result)
        await idempotency.remember(
            tx, self.caller.principal, self._once.key, self._once.fingerprint, status=0, body=body
        )


__all__ = ["Changing", "Once", "Read", "Reading", "RequestContext", "Requests", "Tx", "UncheckedRequestError"]

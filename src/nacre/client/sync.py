"""The client for programs without an event loop: the same calls, run to their end.

with SyncNacre("http://127.0.0.1:7480", token) as nacre:
    machine = nacre.run(nacre.api.vms.show("web"))
    for event in nacre.iterate(nacre.api.events.follow()):
        print(event.message)
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from nacre.client.api import Nacre

T = TypeVar("T")


class SyncNacre:
    """A control plane, as one user, for one thread. Use it as a context manager."""

    def __init__(self, url: str, token: str | None = None, *, ca: Path | None = None) -> None:
        self._runner = asyncio.Runner()
        self.api = Nacre(url, token, ca=ca)

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        """Return what a call of `api` returns, or raise what it raises."""
        return self._runner.run(call)

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Go through what a call of `api` yields."""

        async def following() -> tuple[bool, T | None]:
            try:
                return True, await anext(items)
            except StopAsyncIteration:
                return False, None

        while True:
            there, item = self._runner.run(following())
            if not there:
                return
            yield item  # pyright: ignore[reportReturnType]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self.api.__aexit__(kind, error, trace))
        self._runner.close()

"""A node that can fall silent without hanging up, as a host does that froze or whose cable was pulled.

A silent node sends nothing, not even the answers that TLS and WebSocket give by themselves, takes nothing in, and
opens no connection; its open ones stay as they are. When it speaks again it goes on where it was.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from websockets.asyncio.client import ClientConnection

from nacre.agent.dialer import Dialer
from nacre.agent.identity import Identity


class Voice:
    """Whether one node can be heard."""

    def __init__(self) -> None:
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._open: set[SilencableConnection] = set()

    @property
    def silent(self) -> bool:
        """Whether it sends nothing now."""
        return not self._speaks.is_set()

    def fall_silent(self) -> None:
        """Send and take nothing from now on."""
        self._speaks.clear()
        for connection in self._open:
            connection.freeze()

    def speak(self) -> None:
        """Go on; what was to be said meanwhile is said now."""
        self._speaks.set()
        for connection in self._open:
            connection.thaw()

    def cut(self) -> None:
        """Break every open connection without a word. Nothing is held up by silence any more."""
        for connection in self._open:
            connection.transport.abort()
        self._speaks.set()

    async def wait(self) -> None:
        """Return when it may speak."""
        await self._speaks.wait()

    def opened(self, connection: "SilencableConnection") -> None:
        """Let a connection follow this voice."""
        self._open.add(connection)
        if self.silent:
            connection.freeze()

    def closed(self, connection: "SilencableConnection") -> None:
        """Forget a connection."""
        self._open.discard(connection)


class SilencableConnection(ClientConnection):
    """A connection of a node with a voice."""

    def __init__(self, *args: Any, voice: Voice, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._voice = voice

    def freeze(self) -> None:
        """Stop reading, and stop asking whether the other side lives."""
        if self.transport.is_closing():
            return
        self.transport.pause_reading()
        if self.keepalive_task is not None:
            self.keepalive_task.cancel()
            self.keepalive_task = None

    def thaw(self) -> None:
        """Send what waits and read on."""
        if self.transport.is_closing():
            return
        self.send_data()
        self.transport.resume_reading()
        self.start_keepalive()

    def send_data(self) -> None:
        """Send what the protocol has to say, unless it must wait."""
        if not self._voice.silent:
            super().send_data()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has ended, whoever ended it."""
        self._voice.closed(self)
        super().connection_lost(exc)

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Close; a silent node cannot, so it waits."""
        await self._voice.wait()
        await super().close(code, reason)


class SilencableDialer(Dialer):
    """Dials for a node with a voice."""

    def __init__(self, identity: Identity, voice: Voice) -> None:
        super().__init__(identity, cast("type[ClientConnection]", partial(SilencableConnection, voice=voice)))
        self._voice = voice

    @asynccontextmanager
    async def dial(self, address: str, path: str) -> AsyncGenerator[ClientConnection]:
        """Open a connection once the node may speak."""
        await self._voice.wait()
        async with super().dial(address, path) as connection:
            assert isinstance(connection, SilencableConnection)
            self._voice.opened(connection)
            yield connection

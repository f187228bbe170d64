"""A server on a unix socket that hangs up on everybody when it closes, also on who has only just connected.

asyncio's own forgets a connection that it has accepted and not begun with yet when it is closed, and leaves one open
whose handler is cancelled (CPython 3.11, `_accept_connection2` in selector_events.py and `StreamReaderProtocol`). Who
waits for an answer there, as a hypervisor does that connects a disk, would wait for good.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_AGAIN_S = 1.0
_LIMIT = 1 << 16

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class UnixServer:
    """Serves from when it is made until it is closed. For the event loop that runs."""

    def __init__(self, path: Path, serve: Serve, *, mode: int | None = None, limit: int = _LIMIT) -> None:
        """Listen at `path`, where nothing may be. `mode` are its permissions; `limit` is that of readers, in bytes.

        `serve` has a task for every connection, which is closed when it returns: after what was written has gone out,
        or at once if it was cancelled or failed. Raises OSError.
        """
        self._path = path
        self._serve = serve
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun: set[asyncio.Task[None]] = set()
        self._closed = False
        self._again: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listening.setblocking(False)
            if mode is not None:
                os.fchmod(self._listening.fileno(), mode)  # before it has a name: by that another file could be meant
            self._listening.bind(str(path))
            self._listening.listen()
        except BaseException:
            self._listening.close()
            raise
        self._look()

    async def served(self, timeout: float) -> None:
        """Return when those who are connected now have been served, or after `timeout` seconds."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout)

    def close(self) -> None:
        """Listen no more and hang up on everybody. The path goes, too. May be repeated."""
        if self._closed:
            return
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listening)
        self._listening.close()
        self._path.unlink(missing_ok=True)
        for task in self._begun:  # all others find out when they begin
            task.cancel()

    async def wait_closed(self) -> None:
        """Return when nobody is served any more."""
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    def _look(self) -> None:
        self._again = None
        self._loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._loop.remove_reader(self._listening)
            self._again = self._loop.call_later(_AGAIN_S, self._look)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._attend(connection))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._loop.call_exception_handler({"message": f"serving {self._path} failed", "exception": error})

    async def _attend(self, connection: socket.socket) -> None:
        if self._closed:
            connection.close()
            return
        task = asyncio.current_task()
        assert task is not None
        self._begun.add(task)
        with contextlib.suppress(asyncio.CancelledError):
            try:
                await self._answer(connection)
            finally:
                self._begun.discard(task)

    async def _answer(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=self._limit)
        try:
            await self._serve(reader, writer)
        except BaseException:
            writer.transport.abort()
            raise
        writer.close()

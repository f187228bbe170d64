"""The console of a machine under Firecracker, which has no socket for one: it prints on its standard output.

That is the console log itself, to which the process appends whether or not there is an agent. What is typed comes to it
through a pipe. Here, in the agent, both become the socket that a console is everywhere else: who connects hears what is
appended from then on, and is read. So there is a console only while an agent attends the guest. Used by `guest`.
"""

import asyncio
import contextlib
import ctypes
import os
import struct
from pathlib import Path

from nacre.agent.hypervisors.firecracker.places import Places
from nacre.lib.threads import in_thread
from nacre.lib.unix_server import UnixServer

_CHUNK = 65536
_WRITE_S = 2.0
_AGAIN_S = 0.02
_MARK = 256
_LOOK_S = 0.1  # where changes are not told
_IN_MODIFY = 0x2  # sys/inotify.h
_EVENT = struct.calcsize("iIII")


class Console:
    """Serves the console of one guest until it is closed."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._server: UnixServer | None = None
        self._clients: set[asyncio.StreamWriter] = set()
        self._changed = asyncio.Event()
        self._inotify: int | None = None
        self._telling: asyncio.Task[None] | None = None
        self._offset = 0
        self._told = b""
        """The last of what was told, to find it again when the log is cut."""

    def open(self) -> None:
        """Begin to listen. Raises OSError."""
        path = self._places.console_socket
        path.unlink(missing_ok=True)
        self._server = UnixServer(path, self._serve, mode=0o600)
        self._inotify = _watching(self._places.console_log)
        if self._inotify is not None:
            asyncio.get_running_loop().add_reader(self._inotify, self._modified, self._inotify)
        self._telling = asyncio.create_task(self._tell())

    def close(self) -> None:
        """Hang up. The socket goes; may be repeated."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify)
            os.close(self._inotify)
        if self._telling is not None:
            self._telling.cancel()
        self._clients.clear()

    def _modified(self, inotify: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(inotify, 64 * _EVENT)
        self._changed.set()

    async def _tell(self) -> None:
        """Send what is appended to whoever listens."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S if self._inotify is None and self._clients else None):
                    await self._changed.wait()
            self._changed.clear()
            while self._clients and (data := await in_thread(self._news)):
                for client in tuple(self._clients):
                    client.write(data)
                    if client.transport.get_write_buffer_size() > 16 * _CHUNK:  # it does not read
                        client.transport.abort()
                        self._clients.discard(client)

    def _news(self) -> bytes:
        with self._places.console_log.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            if end < self._offset:  # it was cut, and may hold more than what was told by now
                file.seek(0)
                content = file.read()
                found = content.rfind(self._told) if self._told else -1
                self._offset = found + len(self._told) if found >= 0 else 0
            file.seek(self._offset)
            data = file.read(_CHUNK)
        self._offset += len(data)
        self._told = (self._told + data)[-_MARK:]
        return data

    def _begin(self) -> None:
        with self._places.console_log.open("rb") as file:
            self._offset = file.seek(0, os.SEEK_END)
            file.seek(max(0, self._offset - _MARK))
            self._told = file.read(_MARK)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._clients:
                self._begin()
            self._clients.add(writer)
            self._changed.set()
            while data := await reader.read(_CHUNK):
                await self._type(data)
        except OSError:
            pass  # it has left, or there is no log
        finally:
            self._clients.discard(writer)

    async def _type(self, data: bytes) -> None:
        """Send what was typed. What the guest does not read in time is lost, as on a real line."""
        try:
            pipe = os.open(self._places.console_input, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # nobody reads there, now or ever
            return
        try:
            async with asyncio.timeout(_WRITE_S):
                while data:
                    try:
                        data = data[os.write(pipe, data) :]
                    except BlockingIOError:
                        await asyncio.sleep(_AGAIN_S)
        except TimeoutError:
            return
        finally:
            os.close(pipe)


def _watching(path: Path) -> int | None:
    """Return a descriptor that can be read when a file has changed (inotify(7)); None if there are no more of them."""
    libc = ctypes.CDLL(None)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        return None
    if libc.inotify_add_watch(descriptor, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(descriptor)
        return None
    return int(descriptor)

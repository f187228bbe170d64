"""A loopback port of this machine that leads to a port on a host of the lab, whatever is cut there.

For clients of a control plane that lives in a namespace: the tests, the command line, a browser.
"""

import asyncio
import contextlib
import socket
import threading

from support.netns import Host, enter_namespace


class Relay(threading.Thread):
    """Listens until it is closed. Dials the host's own loopback address, which no cut touches."""

    def __init__(self, host: Host, port: int) -> None:
        super().__init__(name=f"relay-{host.name}", daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._namespace = host.namespace
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._ready = threading.Event()
        self.start()
        self._ready.wait()

    def run(self) -> None:
        """The thread."""
        enter_namespace(self._namespace)
        with contextlib.closing(self._loop):
            self._loop.run_until_complete(self._serve())

    def close(self) -> None:
        """Stop listening and drop every connection."""
        self._loop.call_soon_threadsafe(self._ended.set)
        self.join()

    async def _serve(self) -> None:
        carrying: set[asyncio.Task[None]] = set()

        def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(self._carry(reader, writer))
            carrying.add(task)
            task.add_done_callback(carrying.discard)

        async with await asyncio.start_server(accepted, sock=self._listener):
            self._ready.set()
            await self._ended.wait()
            for task in carrying:
                task.cancel()
            await asyncio.gather(*carrying, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            there, back = await asyncio.open_connection("127.0.0.1", self._port)
            with contextlib.closing(back):
                ways = {asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))}
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()

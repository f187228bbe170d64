"""A serial console on this terminal: raw keys in, bytes out, reconnecting until somebody ends it.

Used by `nacre vm console`. Works with a pipe on either side too. The terminal is given back as it was, always.
"""

import asyncio
import os
import signal
import sys
import termios
import threading
import tty
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nacre.cli import exits
from nacre.cli.session import Session
from nacre.errors import NacreError

if TYPE_CHECKING:
    from nacre.client.api import Nacre
    from nacre.client.console import Console

DETACH = b"\x1d"
"""^], as in telnet."""
REMEMBERED_BYTES = 1024
CHUNK_BYTES = 4096
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
SCRIPT_PATIENCE_S = 60.0
"""How long a lost connection is tried again when nobody watches; a person can detach."""
CLOSED = "the console was closed"


@dataclass
class Screen:
    """What has been shown, so that the scrollback after a reconnect is not shown twice."""

    tail: bytes = b""
    resumed: bool = False
    last_at: float = field(default=0.0)

    def show(self, data: bytes) -> None:
        """Write what is new of `data`."""
        new = self.fresh(data)
        self.tail = (self.tail + new)[-REMEMBERED_BYTES:]
        self.last_at = asyncio.get_running_loop().time()
        sys.stdout.buffer.write(new)
        sys.stdout.buffer.flush()

    def fresh(self, data: bytes) -> bytes:
        """Return `data` without the part of a repeated scrollback that was shown before the connection broke."""
        if not self.resumed:
            return data
        self.resumed = False
        found = data.rfind(self.tail) if self.tail else -1
        return data if found < 0 else data[found + len(self.tail) :]


class Keys:
    """What is typed or piped in, read by a thread because a pipe, a file and a terminal all work that way."""

    def __init__(self, *, detachable: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._typed: asyncio.Queue[bytes] = asyncio.Queue()
        self._unsent = b""
        self._detachable = detachable
        self.detached = False
        threading.Thread(target=self._read, name="keys", daemon=True).start()

    async def typed(self) -> bytes:
        """Return what is to be sent next; empty at the end of input and after ^]."""
        if self._unsent:
            return self._unsent
        if self.detached:
            return b""
        data = await self._typed.get()
        if self._detachable and DETACH in data:
            self.detached = True
            data = data.partition(DETACH)[0]
        self._unsent = data
        return data

    def sent(self) -> None:
        """What `typed` returned has been sent; until then it is returned again, to a new connection."""
        self._unsent = b""

    def _read(self) -> None:
        while True:
            try:
                data = os.read(0, CHUNK_BYTES)
            except OSError:
                data = b""
            try:
                self._loop.call_soon_threadsafe(self._typed.put_nowait, data)
            except RuntimeError:
                return  # the loop has ended, and so does the program
            if not data:
                return


async def attach(session: Session, vm: str, *, watch: bool, linger_s: float) -> int:
    """Stay on the console of `vm` until ^], the end of piped input, or the server closes it. Raises NacreError."""
    on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    project = session.project
    killed_by: list[int] = []
    try:
        async with session.client() as nacre:
            with _stopped_by_signals(killed_by), _raw_terminal(on_terminal and not watch):
                keys = None if watch else Keys(detachable=sys.stdin.isatty())
                ended = await _stay(nacre, vm, project, keys, linger_s, chatty=on_terminal)
    except asyncio.CancelledError:
        if not killed_by:
            raise
        return exits.KILLED + killed_by[0]
    if on_terminal:
        exits.note(f"\n{ended}")
    return exits.OK


async def _stay(nacre: "Nacre", vm: str, project: str, keys: Keys | None, linger_s: float, *, chatty: bool) -> str:
    """Connect, and connect again, until it is over. Returns why it is."""
    screen, pause, connected_before = Screen(), FIRST_PAUSE_S, False
    clock = asyncio.get_running_loop()
    lost_at: float | None = None
    while True:
        try:
            async with nacre.console(vm, project=project) as console:
                if chatty:
                    how = "" if keys is None else "; detach with ^]"
                    exits.note(f"[{'connected again' if connected_before else f'console of {vm}'}{how}]\r")
                screen.resumed, connected_before, pause = connected_before, True, FIRST_PAUSE_S
                lost_at = None
                return await _exchange(console, screen, keys, linger_s)
        except NacreError as error:
            lost_at = clock.time() if lost_at is None else lost_at
            tired = not chatty and clock.time() - lost_at > SCRIPT_PATIENCE_S
            if tired or not (connected_before and error.retryable):
                raise
            if chatty:
                exits.note(f"\r\n[{exits.one_line(error.message)}; trying again]\r")
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)


async def _exchange(console: "Console", screen: Screen, keys: Keys | None, linger_s: float) -> str:
    """Move bytes both ways until one side ends. Raises UnavailableError when the connection breaks."""

    async def show() -> str:
        async for data in console.output():
            screen.show(data)
        return console.reason or CLOSED

    async def send(keys: Keys) -> str:
        while data := await keys.typed():
            await console.write(data)
            keys.sent()
        if not keys.detached:
            await _quiet(screen, linger_s)
        return "detached"

    tasks = [asyncio.create_task(show())]
    if keys is not None:
        tasks.append(asyncio.create_task(send(keys)))
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(iter(done)).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _quiet(screen: Screen, linger_s: float) -> None:
    """Return when nothing has been printed for a while: a script has seen its answer."""
    loop = asyncio.get_running_loop()
    screen.last_at = max(screen.last_at, loop.time())
    while (left := screen.last_at + linger_s - loop.time()) > 0:  # noqa: ASYNC110  # each output moves the end
        await asyncio.sleep(left)


@contextmanager
def _raw_terminal(wanted: bool) -> Generator[None, None, None]:
    """Let every key through to the guest, and give the terminal back afterwards."""
    if not wanted:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


@contextmanager
def _stopped_by_signals(killed_by: list[int]) -> Generator[None, None, None]:
    """Turn signals that would kill us into a cancellation, so that the terminal is given back; note which it was."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    numbers = (signal.SIGTERM, signal.SIGHUP)

    def stop(number: int) -> None:
        killed_by.append(number)
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)

"""The program that keeps the console of one guest: it writes down what the console prints, and lets one client in.

For hypervisors that cannot do both at once. Run as `python -I -S console_keeper.py PID START SERIAL CONSOLE LOG` by the
driver; standard library only and little of it, because there is one for every such machine. It needs no agent: that may
be stopped, killed or replaced meanwhile.

PID and START (field 22 of /proc/PID/stat) name the hypervisor's process; the keeper ends when that does. SERIAL is the
unix socket on which the hypervisor serves the console to one client, which is us; it goes and comes again when the
guest is reset. CONSOLE is the socket on which we serve one client at a time. To LOG everything is appended; it may be
cut meanwhile.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time

_CHUNK = 65536
_MOST_WAITING = 1 << 20
"""A client that is so many bytes behind misses some, as on a real line."""
_QUICK_S = 0.005
_SLOW_S = 0.1
_QUICK_FOR_S = 5.0
"""So long after it was lost, the hypervisor's socket is tried quickly, so that little of a new boot is missed."""


class Keeper:
    """Everything the process does, in one thread."""

    def __init__(self, pidfd: int, user: int, serial: str, console: str, log: str) -> None:
        self._pidfd = pidfd
        self._user = user
        self._serial = serial
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._guest: socket.socket | None = None
        self._client: socket.socket | None = None
        self._to_guest = b""
        self._to_client = b""
        self._lost_at = time.monotonic()
        self._server = _listening(console)

    def run(self) -> None:
        """Serve until the hypervisor has ended and all that it printed is written down."""
        while True:
            self._connect()
            ready = self._wait()
            self._serve(ready)
            if self._pidfd in ready:
                while self._guest is not None and self._hear():
                    pass
                return

    def _wait(self) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if self._guest is not None:
            poll.register(self._guest, select.POLLIN | (select.POLLOUT if self._to_guest else 0))
        if self._client is None:
            poll.register(self._server, select.POLLIN)
        else:
            wanted = (0 if self._to_guest else select.POLLIN) | (select.POLLOUT if self._to_client else 0)
            poll.register(self._client, wanted)
        return dict(poll.poll(self._patience()))

    def _patience(self) -> float | None:
        """Return for how many milliseconds nothing needs to be done; None while the guest is there."""
        if self._guest is not None:
            return None
        quick = time.monotonic() - self._lost_at < _QUICK_FOR_S
        return 1000 * (_QUICK_S if quick else _SLOW_S)

    def _serve(self, ready: dict[int, int]) -> None:
        if self._guest is not None and (events := ready.get(self._guest.fileno(), 0)):
            if self._to_guest:
                self._to_guest = _push(self._guest, self._to_guest)
            if events & ~select.POLLOUT:
                self._hear()
        if self._client is not None and (events := ready.get(self._client.fileno(), 0)):
            if self._to_client:
                self._to_client = _push(self._client, self._to_client)
            if events & ~select.POLLOUT:
                self._listen()
        elif self._server.fileno() in ready and self._client is None:
            self._client, _ = self._server.accept()
            self._client.setblocking(False)

    def _connect(self) -> None:
        if self._guest is not None:
            return
        guest = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        guest.setblocking(False)
        try:
            guest.connect(self._serial)
        except OSError:  # it is not there yet, or not any more
            guest.close()
            return
        if _user(guest) == self._user:
            self._guest = guest
        else:  # a process that was taken over leads us to another machine's console
            guest.close()

    def _hear(self) -> bool:
        """Take what the guest prints. False if there is nothing."""
        assert self._guest is not None
        data = _pull(self._guest)
        if data is None:
            return False
        if not data:
            self._guest.close()
            self._guest = None
            self._to_guest = b""
            self._lost_at = time.monotonic()
            return False
        _append(self._log, data)
        if self._client is not None and len(self._to_client) + len(data) <= _MOST_WAITING:
            self._to_client = _push(self._client, self._to_client + data)
        return True

    def _listen(self) -> None:
        """Take what the client types. Without a guest it goes nowhere."""
        assert self._client is not None
        data = _pull(self._client)
        if data is None:
            return
        if not data:
            self._client.close()
            self._client = None
            self._to_client = b""
        elif self._guest is not None:
            self._to_guest = _push(self._guest, self._to_guest + data)


def _listening(path: str) -> socket.socket:
    """Listen under a name that appears when it can be connected to, whatever was left there."""
    draft = f"{path}.new"
    if os.path.lexists(draft):
        os.unlink(draft)  # noqa: PTH108  # pathlib costs memory
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(draft)
    server.listen(8)
    os.rename(draft, path)  # noqa: PTH104
    return server


def _pull(stream: socket.socket) -> bytes | None:
    """Return what has come, b"" if nothing more will, None if nothing has yet."""
    try:
        return stream.recv(_CHUNK)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _push(stream: socket.socket, data: bytes) -> bytes:
    """Send what goes through now, and return the rest."""
    try:
        return data[stream.send(data) :]
    except BlockingIOError:
        return data
    except OSError:  # whoever was there has left, which reading tells
        return b""


def _append(log: int, data: bytes) -> None:
    try:
        while data:
            data = data[os.write(log, data) :]
    except OSError as error:  # a full disk: the console goes on without being written down
        sys.stderr.write(f"console keeper: the log cannot be written: {error.strerror}\n")


def _user(connection: socket.socket) -> int:
    """Return who listens at the other end: the second of three numbers (struct ucred, unix(7))."""
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(peer[4:8], sys.byteorder)


def _started(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:  # noqa: PTH123  # pathlib costs memory
        return int(file.read().rpartition(")")[2].split()[19])


def main(words: list[str]) -> None:
    """Keep the console that the command line names."""
    pid, start, serial, console, log = words
    os.umask(0o077)
    try:
        pidfd = os.pidfd_open(int(pid))
        user = os.stat(f"/proc/{pid}").st_uid  # noqa: PTH116  # as above
        if _started(int(pid)) != int(start):
            return
    except OSError:  # it has ended already
        return
    Keeper(pidfd, user, serial, console, log).run()


if __name__ == "__main__":
    main(sys.argv[1:])

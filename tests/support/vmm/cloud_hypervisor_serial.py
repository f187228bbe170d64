"""The serial port of a Cloud Hypervisor stand-in: a socket for one client, a file, or nothing."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

_KEPT = 1 << 20


class Serial:
    """What the guest prints goes to whoever is connected; until somebody is, the newest of it is kept."""

    def __init__(self, config: dict[str, object], typed: Callable[[bytes], None]) -> None:
        """Raises OSError, as when the path of the socket is there already."""
        self._typed = typed
        self._lock = threading.Lock()
        self._client: socket.socket | None = None
        self._kept = b""
        self._file: int | None = None
        self._server: socket.socket | None = None
        self._path = Path(str(config.get("socket") or config.get("file") or "."))
        match config.get("mode", "Null"):
            case "Socket":
                self._server = socket.socket(socket.AF_UNIX)
                try:
                    self._server.bind(str(self._path))
                except OSError:
                    self._server.close()
                    raise
                self._server.listen()
                threading.Thread(target=self._serve, args=(self._server,), daemon=True).start()
            case "File":
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            case "Tty":
                self._file = os.dup(1)
            case _:
                pass

    def write(self, data: bytes) -> None:
        """Print something."""
        if self._file is not None:
            os.write(self._file, data)
        with self._lock:
            if self._client is None:
                self._kept = (self._kept + data)[-_KEPT:] if self._server else b""
                return
            with contextlib.suppress(OSError):
                self._client.sendall(data)

    def close(self) -> None:
        """Hang up, and remove the socket."""
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._path.unlink(missing_ok=True)
        with self._lock:
            self._hang_up()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _serve(self, server: socket.socket) -> None:
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            with self._lock:
                self._hang_up()
                self._client = client
                with contextlib.suppress(OSError):
                    client.sendall(self._kept)
                self._kept = b""
            threading.Thread(target=self._read, args=(client,), daemon=True).start()

    def _read(self, client: socket.socket) -> None:
        while True:
            try:
                data = client.recv(4096)
            except OSError:
                data = b""
            if not data:
                break
            self._typed(data)
        with self._lock:
            if self._client is client:
                self._hang_up()

    def _hang_up(self) -> None:
        if self._client is not None:
            with contextlib.suppress(OSError):
                self._client.shutdown(socket.SHUT_RDWR)
            self._client.close()
            self._client = None

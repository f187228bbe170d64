"""What a Firecracker stand-in has open on the host: disks, taps, sockets, log, metrics and snapshots."""

import contextlib
import fcntl
import json
import os
import socket
import struct
import time
import zlib
from pathlib import Path

from support.vmm.firecracker_requests import Body, RefusedError

TAPS = "NACRE_STAND_IN_TAPS"
"""Environment variable: a folder whose files are the taps of this host, so that tests need no real ones."""

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def opened(path: Path, text: str, flags: int = os.O_RDONLY) -> int:
    """Open a file now, and let go of it again. Raises RefusedError with the system's words in `text`."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise RefusedError(text.format(said(error))) from error
    os.close(descriptor)
    return descriptor


def said(error: OSError) -> str:
    """An error as Rust prints it."""
    return f"{os.strerror(error.errno or 0)} (os error {error.errno})"


class Tap:
    """One tap device, held as long as this lives."""

    def __init__(self, name: str, prefix: str) -> None:
        folder = os.environ.get(TAPS)
        try:
            if folder is not None:
                self._descriptor = os.open(Path(folder) / name, os.O_RDWR | os.O_CLOEXEC)
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                self._descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
                request = struct.pack("16sH14x", name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR)
                fcntl.ioctl(self._descriptor, _TUNSETIFF, request)
        except OSError as error:
            number = 16 if isinstance(error, BlockingIOError) else error.errno
            words = "Resource busy" if number == 16 else os.strerror(number or 0)
            raise RefusedError(
                f"{prefix}Open tap device failed: Error while creating ifreq structure: {words} (os error {number}). "
                f"Invalid TUN/TAP Backend provided by {name}. "
                "Check our documentation on setting up the network devices."
            ) from error

    def close(self) -> None:
        """Let it go."""
        os.close(self._descriptor)


class Files:
    """All files and sockets of one stand-in."""

    def __init__(self, root: Path | None, name: str) -> None:
        self._root = root
        self._name = name
        self._drives: dict[str, int | socket.socket] = {}
        self._bound: list[socket.socket] = []
        self._log: int | None = None
        self._metrics: int | None = None
        self._counted: dict[str, dict[str, int]] = {}

    def path(self, text: object) -> Path:
        """Where a path that was named leads."""
        if self._root is None:
            return Path(str(text))
        inside = os.path.normpath("/" + str(text))
        return self._root / inside.lstrip("/")

    def open_drive(self, name: str, body: Body, *, prefix: str = "", patch: bool = False) -> None:
        """Open what backs a drive, and close what did before."""
        start = prefix or (
            "Drive config error: Unable to patch the block device: Block: "
            if patch
            else "Drive config error: Unable to create the virtio block device: "
        )
        end = " Please verify the request arguments." if patch else ""
        where, behind = body.get("path_on_host"), body.get("socket")
        if (where is None) == (behind is None):
            raise RefusedError(f"{start}Virtio backend error: Invalid drive: one of path_on_host and socket{end}")
        fresh: int | socket.socket
        try:
            if behind is not None:
                fresh = socket.socket(socket.AF_UNIX)
                fresh.connect(str(self.path(behind)))
            else:
                flags = os.O_RDONLY if body.get("is_read_only") else os.O_RDWR
                fresh = os.open(self.path(where), flags | os.O_CLOEXEC)
        except OSError as error:
            text = f"Virtio backend error: Error manipulating the backing file: {said(error)} {where or behind}"
            raise RefusedError(start + text + end) from error
        self.close_drive(name)
        self._drives[name] = fresh

    def close_drive(self, name: str) -> None:
        """Let go of what backs a drive."""
        held = self._drives.pop(name, None)
        if isinstance(held, socket.socket):
            held.close()
        elif held is not None:
            os.close(held)

    def bind(self, text: str, prefix: str) -> None:
        """Listen on the host's end of the vsock."""
        made = socket.socket(socket.AF_UNIX)
        try:
            made.bind(str(self.path(text)))
        except OSError as error:
            made.close()
            words = "Address in use (os error 98)" if error.errno == 98 else said(error)
            raise RefusedError(f"{prefix}Error binding to the host-side Unix socket: {words}") from error
        made.listen()
        self._bound.append(made)

    # Log and metrics

    def log_to(self, text: str, prefix: str = "") -> None:
        """Write log lines there from now on."""
        try:
            self._log = os.open(self.path(text), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RefusedError(prefix + said(error)) from error

    def log(self, text: str) -> None:
        """One line; on standard output until there is a file."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1e9):09}"
        with contextlib.suppress(OSError):
            os.write(1 if self._log is None else self._log, f"{stamp} [{self._name}:main] {text}\n".encode())

    def metrics_to(self, text: str) -> None:
        """Write metrics there from now on, which can be said once."""
        prefix = "Metrics error: Cannot initialize the metrics system due to bad user input: "
        if self._metrics is not None:
            raise RefusedError(prefix + "Reinitialization of metrics not allowed.")
        try:
            self._metrics = os.open(self.path(text), os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RefusedError(prefix + said(error)) from error

    def count_boot(self, drives: list[str]) -> None:
        """What a booting guest reads and writes."""
        for name in drives:
            self._counted[f"block_{name}"] = {
                "read_bytes": 1 << 20,
                "write_bytes": 4096,
                "read_count": 256,
                "write_count": 1,
            }

    def write_metrics(self, drives: list[str], nics: list[str]) -> None:
        """One line of what has been counted since the line before."""
        if self._metrics is None:
            return
        line: dict[str, object] = {"utc_timestamp_ms": int(time.time() * 1000)}
        none = {"read_bytes": 0, "write_bytes": 0, "read_count": 0, "write_count": 0}
        for name in drives:
            line[f"block_{name}"] = self._counted.pop(f"block_{name}", none)
        for name in nics:
            line[f"net_{name}"] = {
                "rx_bytes_count": 1500,
                "rx_packets_count": 1,
                "tx_bytes_count": 3000,
                "tx_packets_count": 2,
            }
        line["vmm"] = {"panic_count": 0}
        os.write(self._metrics, json.dumps(line).encode() + b"\n")

    # Snapshots

    def write_snapshot(self, state: str, memory: str, config: Body, content: Body, size: int) -> None:
        """Write both files of a snapshot."""
        text = json.dumps(config).encode()
        try:
            self.path(state).write_bytes(text + b"\n" + str(zlib.crc32(text)).encode())
            with self.path(memory).open("wb") as file:
                file.write(json.dumps(content).encode() + b"\n")
                file.truncate(size)
        except OSError as error:
            raise RefusedError(f"Create snapshot error: Cannot open the snapshot file: {said(error)}") from error

    def read_snapshot(self, state: str, memory: str, form: str) -> tuple[Body, Body]:
        """Read both. The state is checked first."""
        prefix = "Failed to get snapshot state from file: "
        try:
            text, _, crc = self.path(state).read_bytes().rpartition(b"\n")
        except OSError as error:
            raise RefusedError(f"{prefix}Failed to open snapshot file: {said(error)}") from error
        if str(zlib.crc32(text)).encode() != crc:
            raise RefusedError(f"{prefix}Failed to load snapshot state from file: CRC64 validation failed")
        found = json.loads(text)
        if found["format"] != form:
            raise RefusedError(
                f"{prefix}Failed to load snapshot state from file: Snapshot file has unsupported version: "
                f"{found['format']}"
            )
        try:
            with self.path(memory).open("rb") as file:
                return found, json.loads(file.readline())
        except OSError as error:
            raise RefusedError(
                f"Failed to build microVM from snapshot: Failed to load guest memory: Error creating guest memory from "
                f"file: {said(error)}"
            ) from error


def format_of(path: Path) -> str:
    """The format of a state file."""
    text, _, _ = path.read_bytes().rpartition(b"\n")
    return str(json.loads(text)["format"])

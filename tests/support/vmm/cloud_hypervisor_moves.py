"""How the machine of a Cloud Hypervisor stand-in is saved, restored, sent away and taken in."""

import json
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING, cast

from support.vmm.cloud_hypervisor_checks import ApiError, Fields, number, part

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.vmm.cloud_hypervisor_events import Events
    from support.vmm.guest import Guest

SAVED = ("config.json", "state.json", "memory-ranges")
PAGE = bytes(1 << 20)
ROUNDS, PAGES = 3, 8
_SCHEME = "file://"


class Moves:
    """Mixed into `Machine`."""

    if TYPE_CHECKING:
        lock: threading.RLock
        events: Events
        config: Fields | None
        guest: Guest | None
        state: str
        leave: Callable[[], None]
        start_guest: Callable[..., None]
        end_guest: Callable[[], None]
        adopt: Callable[[Fields], None]
        forget: Callable[[], None]
        lock_disks: Callable[[], None]
        release_disks: Callable[[], None]
        _need_running: Callable[[str], Guest]

    def snapshot(self, body: Fields) -> tuple[int, object]:
        guest = self._need_running("VM is not running")
        self.events.tell("vm", "snapshotting")
        if self.state != "Paused":
            raise ApiError(500, "The VM could not be snapshotted", "Trying to snapshot while VM is running")
        folder = _folder(body.get("destination_url"))
        if any((folder / name).exists() for name in SAVED):
            raise ApiError(500, "The VM could not be snapshotted", "File exists (os error 17)")
        (folder / SAVED[0]).write_text(json.dumps(self.config))
        (folder / SAVED[1]).write_text(json.dumps(guest.memory()))
        (folder / SAVED[2]).write_bytes(PAGE)
        self.events.tell("vm", "snapshotted")
        return 204, None

    def restore(self, body: Fields) -> tuple[int, object]:
        if self.config is not None:
            raise ApiError(500, "The VM could not be restored", "VM is already created")
        if body.get("prefault") and body.get("memory_restore_mode") == "OnDemand":
            raise ApiError(400, "'prefault' cannot be combined with 'memory_restore_mode=ondemand'")
        self.events.tell("vm", "restoring")
        try:
            folder = _folder(body.get("source_url"))
            config, memory = (cast("Fields", json.loads((folder / name).read_text())) for name in SAVED[:2])
            (folder / SAVED[2]).stat()
            self.adopt(config)
            self.lock_disks()
            self.start_guest(memory, run=bool(body.get("resume")))
        except (OSError, ValueError) as error:
            self.forget()
            raise ApiError(500, "The VM could not be restored", str(error)) from error
        except ApiError:
            self.forget()
            raise
        self.state = "Running" if body.get("resume") else "Paused"
        self.events.tell("vm", "restored")
        return 204, None

    def send(self, body: Fields) -> tuple[int, object]:
        if self.state == "Migrating":
            raise ApiError(500, "Error sending migration", "There is already an ongoing migration")
        if self.guest is None:
            raise ApiError(500, "Error sending migration", "VM is not running")
        scheme, _, path = str(body.get("destination_url")).partition(":")
        if scheme != "unix":
            raise ApiError(400, "Invalid send migration configuration")
        was, self.state = self.state, "Migrating"
        threading.Thread(target=self._send, args=(path, was, self.guest), daemon=True).start()
        return 204, None

    def receive(self, body: Fields) -> tuple[int, object]:
        if self.guest is not None:
            raise ApiError(500, "Error receiving migration", "Can't receive a migration when a VM is already created")
        scheme, _, path = str(body.get("receiver_url")).partition(":")
        if scheme != "unix":
            raise ApiError(400, "Invalid receive migration configuration")
        with socket.socket(socket.AF_UNIX) as server:
            try:
                server.bind(path)
            except OSError as error:
                raise ApiError(500, "Error receiving migration", str(error.strerror)) from error
            server.listen()
            self.events.tell("vm", "migration-receive-ready")
            line, _ = server.accept()
        with line:
            self.events.tell("vm", "migration-receive-started")
            try:
                self._take_in(line)
            except (OSError, EOFError) as error:  # an early return: no event, and what was begun stays
                raise ApiError(500, "Error receiving migration", str(error) or "the sender hung up") from error
            except ApiError:
                self.events.tell("vm", "migration-receive-failed")
                self.forget()
                raise
        self.events.tell("vm", "migration-receive-finished")
        return 204, None

    def _take_in(self, line: socket.socket) -> None:
        memory: Fields = {}
        while True:
            command, data = _heard(line)
            try:
                if command == "config":
                    self.adopt(cast("Fields", json.loads(data)))
                elif command == "state":
                    memory = cast("Fields", json.loads(data))
                elif command == "complete":
                    running = data == b"Running"
                    self.lock_disks()
                    self.start_guest(memory, run=running)
                    self.state = "Running" if running else "Paused"
            except ApiError:
                _say(line, "error", b"")
                raise
            _say(line, "ok", b"")
            if command == "complete":
                return

    def _send(self, path: str, was: str, guest: "Guest") -> None:
        self.events.tell("vm", "migration-started")
        paused = False
        try:
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(path)
                _order(line, "start", b"")
                _order(line, "config", json.dumps(_portable(self.config or {})).encode())
                for count in range(ROUNDS):
                    for _ in range(PAGES):
                        _order(line, "memory", PAGE)
                    self.events.tell("vm", "migration-memory-iteration", id=str(count))
                guest.pause()
                paused = True
                self.events.tell("vm", "pausing")
                self.events.tell("vm", "paused")
                _order(line, "state", json.dumps(guest.memory()).encode())
                self.release_disks()
                _order(line, "complete", was.encode())
        except (OSError, EOFError):
            self.events.tell("vm", "migration-failed")
            with self.lock:
                self.state = was
                if paused:
                    self.release_disks()
                    self.lock_disks()
                if paused and was == "Running":
                    guest.resume()
                    self.events.tell("vm", "resuming")
                    self.events.tell("vm", "resumed")
            return
        self.events.tell("vm", "migration-finished")
        with self.lock:
            self.end_guest()
            self.leave()


def _portable(config: Fields) -> Fields:
    memory = part(config, "memory")
    return config | {"memory": memory | {"size": number(memory, "size")}}


def _folder(url: object) -> Path:
    if not str(url).startswith(_SCHEME):
        raise ApiError(500, "The request could not be served", "Invalid URL")
    folder = Path(str(url).removeprefix(_SCHEME))
    if not folder.is_dir():
        raise ApiError(500, "The request could not be served", "No such file or directory (os error 2)")
    return folder


def _order(line: socket.socket, command: str, data: bytes) -> None:
    _say(line, command, data)
    if _heard(line)[0] != "ok":
        raise EOFError("the receiver refuses")


def _say(line: socket.socket, command: str, data: bytes) -> None:
    line.sendall(struct.pack(">16sI", command.encode(), len(data)) + data)


def _heard(line: socket.socket) -> tuple[str, bytes]:
    head = _exactly(line, struct.calcsize(">16sI"))
    name, length = struct.unpack(">16sI", head)
    return name.rstrip(b"\0").decode(), _exactly(line, length)


def _exactly(line: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part_of_it = line.recv(min(count - len(data), 1 << 16))
        if not part_of_it:
            raise EOFError("the line is dead")
        data += part_of_it
    return bytes(data)

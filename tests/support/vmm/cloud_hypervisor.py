"""A program that is to its clients what `cloud-hypervisor` is: command line, sockets, files, refusals and exit codes.

Run under its real name by `installed`. Behind it runs a small guest (`guest`) instead of a virtual CPU. Environment:
that of `wire` and `faults`; `NACRE_STAND_IN_VERSION` is what it says it is; `NACRE_STAND_IN_STRAYS` names the file for
fields that the real one would drop (`cloud_hypervisor_fields`). `fake.holds` in the kernel arguments is a guest that
lets go of no device.
"""

import fcntl
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import NoReturn, cast

from support.vmm import wire
from support.vmm.cloud_hypervisor_checks import ApiError, Fields
from support.vmm.cloud_hypervisor_events import Events
from support.vmm.cloud_hypervisor_fields import BODIES, StrictError, known
from support.vmm.cloud_hypervisor_machine import Machine
from support.vmm.faults import Faults

VERSION = "NACRE_STAND_IN_VERSION"
KVM = "NACRE_STAND_IN_KVM"
"""`dead` is a KVM that creates machines which never run."""
LATEST = "54.0"

FAILED, NOT_UNDERSTOOD = 1, 2
BASE = "/api/v1/"
_VALUES = {"--api-socket", "--event-monitor", "--log-file", "--seccomp"}
_MACHINE = {"--kernel", "--cmdline", "--cpus", "--memory", "--serial", "--console"}
_FLAGS = {"--no-shutdown", "--landlock", "-v", "-vv", "-vvv"}
_QUESTIONS = {"vmm.ping", "vm.info", "vm.counters"}


def main(argv: list[str]) -> int:
    """Be Cloud Hypervisor, and return its exit code."""
    version = os.environ.get(VERSION, LATEST)
    if {"--version", "-V"} & set(argv):
        print(f"cloud-hypervisor v{version}\nMigration Protocol Versions: 0, 1")
        return 0
    options: dict[str, str] = {}
    words = iter(argv[1:])
    for word in words:
        if word in _VALUES | _MACHINE:
            options[word] = next(words, "")
        elif word in _FLAGS:
            options[word] = "yes"
        else:
            print(f"error: unexpected argument '{word}' found", file=sys.stderr)
            return NOT_UNDERSTOOD
    os.umask(0o077)
    if "--kernel" in options:
        return boot_at_once(options)
    return Program(version, options).run()


def boot_at_once(options: dict[str, str]) -> int:
    """Boot the machine of the command line, whose serial port is our terminal, until we are ended."""
    if not Path(options["--kernel"]).exists():
        print("Error booting VM:\n  Cannot open kernel file: No such file or directory", file=sys.stderr)
        return FAILED
    if os.environ.get(KVM) != "dead":
        print("[    0.000000] Linux version 6.1.0-stand-in", flush=True)
    threading.Event().wait()
    return 0


class Program:
    """One run."""

    def __init__(self, version: str, options: dict[str, str]) -> None:
        self._options = options
        self._events = Events(_value(options.get("--event-monitor"), "path"))
        self._machine = Machine(
            self._events, version=version, no_shutdown="--no-shutdown" in options, leave=lambda: self._leave(0)
        )
        self._stopping = False

    def run(self) -> int:
        """Serve until told to leave."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _, __: self._leave(0))
        self._events.tell("vmm", "starting")
        path = _value(self._options.get("--api-socket"), "path")
        if path is None:
            threading.Event().wait()
        self._path = Path(str(path))
        listener = self._listen()
        server = wire.Server(
            listener,
            self._handle,
            name="Cloud Hypervisor API",
            body_limit=wire.CLOUD_HYPERVISOR_BODY,
            faults=Faults.from_environment(),
        )
        self._server = server
        server.serve()
        self._leave(0)

    def _listen(self) -> socket.socket:
        """Bind the socket, whatever a dead process has left there; the lock beside it says who lives."""
        lock = os.open(f"{self._path}.lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._fail("ApiSocketInUse")
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self._path))
        except OSError as error:
            self._fail(f"Error binding API socket: {error.strerror}")
        listener.listen(128)
        return listener

    def _handle(self, method: str, path: str, body: bytes | None, descriptors: list[int]) -> wire.Answer:
        try:
            status, found = self._serve(method, path, body, descriptors)
        except ApiError as error:
            return error.status, ["Error from API", *error.chain], {}
        except _RefusedError as refused:
            return refused.status, refused.body, {}
        return status, found, {}

    def _serve(self, method: str, path: str, body: bytes | None, descriptors: list[int]) -> tuple[int, object]:
        call = path.removeprefix(BASE)
        machine = self._machine
        if method not in {"GET", "PUT"}:
            raise _RefusedError(400, None)
        if call not in _QUESTIONS | set(BODIES) | set(_PLAIN) or not path.startswith(BASE):
            raise _RefusedError(404, ["Not Found"])
        if (method == "GET") != (call in _QUESTIONS) or (body is not None) != (call in BODIES):
            raise _RefusedError(400, ["Bad Request"])
        if call == "vm.receive-migration":  # nothing else is answered, but there is nobody who would ask the machine
            return machine.receive(_fields(call, body))
        with machine.lock:
            if call in _PLAIN:
                return self._leave_soon() if call == "vmm.shutdown" else getattr(machine, _PLAIN[call])()
            if call in _QUESTIONS:
                return getattr(machine, call.partition(".")[2])()
            fields = _fields(call, body)
            if call.startswith("vm.add-"):
                return machine.add(call, fields, descriptors)
            return getattr(machine, _WITH_BODY[call])(fields)

    def _leave_soon(self) -> tuple[int, object]:
        if self._machine.state == "Migrating":
            raise ApiError(500, "The VMM could not shut down", "VM is currently migrating and can't be modified")
        self._machine.end_guest()
        self._events.tell("vmm", "shutdown")
        self._server.stop()
        return 200, None

    def _leave(self, code: int) -> NoReturn:
        """End at once, and take the socket along; its lock stays."""
        self._events.flush()
        if hasattr(self, "_path"):
            self._path.unlink(missing_ok=True)
            serial = (self._machine.config or {}).get("serial")
            if isinstance(serial, dict) and serial.get("socket"):
                Path(str(serial["socket"])).unlink(missing_ok=True)
        os._exit(code)

    def _fail(self, reason: str) -> NoReturn:
        print(f"Error: Cloud Hypervisor exited with the following error:\n  {reason}", file=sys.stderr, flush=True)
        os._exit(FAILED)


class _RefusedError(Exception):
    """A request that reaches no machine."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__()
        self.status = status
        self.body = body


_PLAIN = {
    "vmm.shutdown": "",
    "vm.boot": "boot",
    "vm.pause": "pause",
    "vm.resume": "resume",
    "vm.shutdown": "shutdown",
    "vm.reboot": "reboot",
    "vm.power-button": "power_button",
    "vm.delete": "delete",
}
_WITH_BODY = {
    "vm.create": "create",
    "vm.resize": "resize",
    "vm.resize-disk": "resize_disk",
    "vm.remove-device": "remove",
    "vm.snapshot": "snapshot",
    "vm.restore": "restore",
    "vm.send-migration": "send",
}


def _fields(call: str, body: bytes | None) -> Fields:
    try:
        found: object = json.loads(body or b"")
        if not isinstance(found, dict):
            raise StrictError("invalid type: expected struct")
        return known(call, cast("Fields", found))
    except (ValueError, StrictError) as error:
        raise _RefusedError(400, ["Failed to deserialize JSON", str(error)]) from error


def _value(text: str | None, name: str) -> str | None:
    """One of the options in an option's value, such as `path=…`."""
    pairs = dict(part.partition("=")[::2] for part in (text or "").split(","))
    return pairs.get(name)

"""A program that is to its clients what `firecracker` is: command line, socket, files, refusals and exit codes.

Run under its real name by `installed`. Behind it runs a small guest (`guest`) instead of a virtual CPU. There are two
environment variables besides those of `wire`: `NACRE_STAND_IN_VERSION` is what it says it is, and behaves like;
`NACRE_STAND_IN_ROOT` is set by the stand-in of the jailer, because a Python program cannot live in an empty root.
"""

import json
import os
import select
import signal
import stat
import sys
import threading
from pathlib import Path

from support.vmm import wire
from support.vmm.faults import Faults
from support.vmm.firecracker_files import Files, format_of
from support.vmm.firecracker_machine import Machine, snapshot_format
from support.vmm.firecracker_requests import RefusedError, read
from support.vmm.firecracker_rules import OPTIONS
from support.vmm.requests import to_json

VERSION = "NACRE_STAND_IN_VERSION"
ROOT = "NACRE_STAND_IN_ROOT"
KVM = "NACRE_STAND_IN_KVM"
"""`dead` is a KVM that creates machines which never run."""
LATEST = "1.17.0"

GENERIC, BAD_CONFIGURATION, ARGUMENTS = 1, 152, 153
_SIGNALS = {signal.SIGHUP: 156, signal.SIGXCPU: 154, signal.SIGXFSZ: 151, signal.SIGBUS: 149, signal.SIGILL: 157}
_SECTIONS = {
    "logger": "logger",
    "metrics": "metrics",
    "machine-config": "machine-config",
    "cpu-config": "cpu-config",
    "boot-source": "boot-source",
    "drives": "drives",
    "network-interfaces": "network-interfaces",
    "mmds-config": "mmds/config",
    "vsock": "vsock",
    "balloon": "balloon",
    "entropy": "entropy",
    "memory-hotplug": "hotplug/memory",
}


class ArgumentError(Exception):
    """A command line that is not understood."""


def main(argv: list[str]) -> int:
    """Be Firecracker, and return its exit code."""
    version = os.environ.get(VERSION, LATEST)
    release = (int(version.split(".")[0]), int(version.split(".")[1]))
    try:
        options = parse(argv[1:], release)
    except ArgumentError as error:
        print(f"Error: ParseArguments({error})", file=sys.stderr)
        return ARGUMENTS
    if "help" in options or "version" in options:
        print(f"Firecracker v{version}\n")
        return 0
    if "snapshot-version" in options:
        print(f"v{snapshot_format(release)}")
        return 0
    if "describe-snapshot" in options:
        return _describe(Path(str(options["describe-snapshot"])))
    return Program(version, options).run()


def parse(words: list[str], release: tuple[int, int]) -> dict[str, str | bool]:
    """Understand the command line. Raises ArgumentError."""
    found: dict[str, str | bool] = {}
    rest = iter(words)
    for word in rest:
        name = word.removeprefix("--")
        takes, since = OPTIONS.get(name, (False, (1 << 30, 0)))
        if not word.startswith("--") or since > release:
            raise ArgumentError(f"UnexpectedArgument({name!r})")
        if name in found:
            raise ArgumentError(f"DuplicateArgument({name!r})")
        value: str | bool = True
        if takes:
            value = next(rest, "--")
            if str(value).startswith("--"):
                raise ArgumentError(f"MissingValue({name!r})")
        found[name] = value
    if "no-api" in found and "config-file" not in found:
        raise ArgumentError("MissingArgument('config-file')")
    if "no-seccomp" in found and "seccomp-filter" in found:
        raise ArgumentError("ForbiddenArgument('seccomp-filter')")
    return found


def _describe(path: Path) -> int:
    try:
        print(f"v{format_of(path)}")
    except (OSError, ValueError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return GENERIC
    return 0


class Program:
    """One run."""

    def __init__(self, version: str, options: dict[str, str | bool]) -> None:
        self._options = options
        name = str(options.get("id", "anonymous-instance"))
        if not 1 <= len(name) <= 64 or not all(letter.isalnum() or letter == "-" for letter in name):
            print("thread 'main' panicked: Invalid instance ID", file=sys.stderr, flush=True)
            signal.signal(signal.SIGABRT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGABRT)
        root = os.environ.get(ROOT)
        self._files = Files(Path(root) if root else None, name)
        self._limit = int(str(options.get("http-api-max-payload-size", wire.FIRECRACKER_BODY)))
        self._machine = Machine(
            name=name,
            version=version,
            pci="enable-pci" in options,
            files=self._files,
            mmds_limit=int(str(options.get("mmds-size-limit", self._limit))),
            ended=self._guest_left,
        )
        self._code: int | None = None
        self._server: wire.Server | None = None
        self._reading = False
        self._over = threading.Event()

    def run(self) -> int:
        """Serve until the guest has left or a snapshot could not be loaded."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        for number, code in _SIGNALS.items():
            signal.signal(number, lambda _, __, code=code: os._exit(code))
        try:
            if "log-path" in self._options:
                self._files.log_to(str(self._options["log-path"]))
            self._files.log(f"Running Firecracker v{self._machine.version}")
            if "metrics-path" in self._options:
                self._files.metrics_to(str(self._options["metrics-path"]))
        except RefusedError as error:
            return self._failed(error.text)
        if "no-api" in self._options:
            return self._boot_alone()
        path = self._files.path(str(self._options.get("api-sock", "/run/firecracker.socket")))
        try:
            self._server = wire.Server(path, self._handle, body_limit=self._limit, faults=Faults.from_environment())
        except OSError as error:
            if error.errno == 98:
                return self._failed(f"Failed to open the API socket at: {path}. Check that it is not already used.")
            return self._failed(f"Failed to bind and run the HTTP server: {error}")
        self._files.log(f"Listening on API socket ({path}).")
        if "config-file" in self._options:
            try:
                self._configure(json.loads(Path(str(self._options["config-file"])).read_text()))
            except (RefusedError, ValueError, OSError) as error:
                return self._failed(f"Failed to build MicroVM from Json: {error}")
        self._server.serve()
        if self._code:
            return self._failed("RunWithApi(MicroVMStoppedWithError)", self._code)
        self._files.log("Vmm is stopping.")
        self._files.log("Firecracker exiting successfully. exit_code=0")
        self._leave(0)
        return 0

    def _boot_alone(self) -> int:
        """Run the machine of the configuration file, without an API."""
        try:
            self._configure(json.loads(Path(str(self._options["config-file"])).read_text()))
        except (RefusedError, ValueError, OSError) as error:
            return self._failed(f"Failed to build MicroVM from Json: {error}")
        if os.environ.get(KVM) != "dead":
            print("[    0.000000] Linux version 6.1.0-stand-in", flush=True)
        self._over.wait()
        return self._code or 0

    def _handle(self, method: str, path: str, body: bytes | None, _: list[int]) -> wire.Answer:
        self._files.log(f'The API server received a {method.title()} request on "{path}".')
        try:
            asked = read(method, path, body, self._machine.release)
            if asked.action.name == "version":
                return 200, {"firecracker_version": self._machine.version}, {}
            found = self._machine.do(asked)
        except RefusedError as error:
            self._files.log(f"Received Error. Status code: {error.status}. Message: {error.text}")
            if self._machine.doomed and self._server is not None:
                self._code = GENERIC
                self._server.stop()
            return error.status, to_json({"fault_message": error.text}), {}
        self._read_input()
        headers = {"Deprecation": "true"} if asked.deprecated else {}
        return (204, None, headers) if found is None else (200, found, headers)

    def _configure(self, config: dict[str, object]) -> None:
        for section, path in _SECTIONS.items():
            value = config.get(section)
            for each in value if isinstance(value, list) else [] if value is None else [value]:
                name = each.get("drive_id") or each.get("iface_id")
                target = f"/{path}/{name}" if name else f"/{path}"
                self._machine.do(read("PUT", target, json.dumps(each).encode(), self._machine.release))
        self._machine.do(read("PUT", "/actions", b'{"action_type":"InstanceStart"}', self._machine.release))
        self._read_input()

    def _guest_left(self, how: str) -> None:
        self._code = 0 if how == "reboot" else GENERIC
        self._over.set()
        if self._server is not None:
            self._server.stop()

    def _read_input(self) -> None:
        """Type what comes on standard input, if that is a terminal or a pipe, and once there is a console."""
        if self._reading or self._machine.guest is None or not self._machine.takes_input:
            return
        self._reading = True
        if os.isatty(0) or stat.S_ISFIFO(os.fstat(0).st_mode):
            os.set_blocking(0, False)
            threading.Thread(target=self._type, daemon=True).start()

    def _type(self) -> None:
        while True:
            select.select([0], [], [])
            try:
                data = os.read(0, 64)  # no more fits into a serial port at once
            except BlockingIOError:
                continue
            if not data or self._machine.guest is None:
                return
            self._machine.guest.type(data)

    def _failed(self, text: str, code: int = GENERIC) -> int:
        self._files.log(text)
        print(f"Error: {text}", file=sys.stderr, flush=True)
        self._files.log(f"Firecracker exiting with error. exit_code={code}")
        self._leave(code)
        return code

    def _leave(self, code: int) -> None:
        """End at once: threads that still run are not waited for."""
        sys.stdout.flush()
        os._exit(code)

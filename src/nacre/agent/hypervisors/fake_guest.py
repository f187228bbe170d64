"""The program behind the fake hypervisor: one small process that behaves like a guest. Standard library only.

Started by `fake.py` as a script with the path of a JSON file; survives the agent as a real guest does. Speaks one JSON
object per line on `control.sock` (one client at a time), is a console on `console.sock`, answers HTTP on its
published TCP ports. After a power-off it waits in the state `shut-down` until it is told to quit, so that a guest
that powered itself off can be told from one that died.

Words in the kernel arguments change its behaviour: `fake.boot=SECONDS` (time until it prints its ready line),
`fake.deaf` (ignores the power button), `fake.crash=SECONDS` (dies by itself), `fake.poweroff=SECONDS` (powers itself
off), `fake.refuse` (does not start), `fake.tick=SECONDS` (counts on its console). Typed on the console, `crash`,
`poweroff`, `reboot` and `panic` do what they say.
"""

import contextlib
import json
import os
import selectors
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict, cast

PAGE = "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{}"
REFUSED = 3
CRASHED = 70


class Port(TypedDict):
    """A published port, as `model.vms.PublishedPort` is written in JSON."""

    host_address: str
    host_port: int
    protocol: str


class Config(TypedDict):
    """What the driver writes for us."""

    vm: str
    run: str
    name: str
    kernel_args: str
    control_socket: str
    console_socket: str
    console_log: str
    publish: list[Port]
    saved: dict[str, int] | None


class FakeGuest:
    """Everything the process does, in one thread around one selector."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = {"control": config["control_socket"], "console": config["console_socket"]}
        self._words = {word.partition("=")[0]: word.partition("=")[2] for word in config["kernel_args"].split()}
        self._state = "running"
        self._clients: dict[str, socket.socket] = {}
        self._requests = b""
        self._typed = b""
        self._timers: list[tuple[float, Callable[[], None]]] = []
        self._ticks = 0
        self._selector = selectors.DefaultSelector()
        self._log = Path(config["console_log"]).open("ab", buffering=0)  # noqa: SIM115  # for the whole life

    def run(self) -> None:
        """Serve until told to quit."""
        if "fake.refuse" in self._words:
            sys.exit("refused, as asked for")
        for port in self._config["publish"]:
            self._publish(port)
        self._listen("console")
        self._listen("control")
        saved = self._config["saved"]
        if saved is None:
            self._boot()
        else:
            self._go_on(saved)
        while True:
            now = time.monotonic()
            for timer in [timer for timer in self._timers if timer[0] <= now and self._state == "running"]:
                self._timers.remove(timer)
                timer[1]()
            wait = min((timer[0] for timer in self._timers), default=now + 3600) - now
            for key, _ in self._selector.select(max(wait, 0.01) if self._state == "running" else 3600):
                cast("Callable[[], None]", key.data)()

    def _listen(self, name: str) -> None:
        path = self._paths[name]
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(8)
        self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(name, server))

    def _publish(self, port: Port) -> None:
        family = socket.AF_INET6 if ":" in port["host_address"] else socket.AF_INET
        stream = port["protocol"] == "tcp"
        server = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        if stream:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind((port["host_address"], port["host_port"]))
        if stream:
            server.listen(16)
        self._selector.register(server, selectors.EVENT_READ, lambda: (self._answer if stream else self._echo)(server))

    def _boot(self) -> None:
        self._timers = []
        self._ticks = 0
        self._say("fake guest: booting\r\n")
        actions = {"boot": self._ready, "crash": self._crash, "poweroff": self._power_off, "tick": self._tick}
        for word, action in actions.items():
            if word == "boot" or f"fake.{word}" in self._words:
                after = float(self._words.get(f"fake.{word}") or 0)
                self._timers.append((time.monotonic() + after, action))

    def _go_on(self, saved: Mapping[str, int]) -> None:
        """Be the guest that was saved: paused, and with what it had counted."""
        self._state = "paused"
        self._ticks = saved["ticks"]
        if "fake.tick" in self._words:
            self._timers.append((time.monotonic() + float(self._words["fake.tick"]), self._tick))

    def _ready(self) -> None:
        self._say(f"NACRE-TINY ready ip=10.0.2.15/24 host={self._config['name']}\r\n/ # ")

    def _tick(self) -> None:
        self._ticks += 1
        self._say(f"tick {self._ticks}\r\n")
        self._timers.append((time.monotonic() + float(self._words["fake.tick"]), self._tick))

    def _crash(self) -> None:
        os._exit(CRASHED)

    def _panic(self) -> None:
        self._state = "halted"
        self._event("halted", "the guest's kernel panicked")

    def _power_off(self) -> None:
        if self._state in {"running", "paused"}:
            self._state = "shut-down"
            self._event("shut-down")

    # the console

    def _say(self, text: str) -> None:
        data = text.encode()
        self._log.write(data)
        client = self._clients.get("console")
        if client is not None:
            with contextlib.suppress(OSError):
                client.send(data)

    def _typing(self, data: bytes) -> None:
        if self._state != "running":
            return
        *lines, self._typed = (self._typed + data).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            text = line.decode(errors="replace").strip()
            self._say(text + "\r\n")  # the echo of what was typed
            self._command(text)
            self._say("/ # ")

    def _command(self, line: str) -> None:
        match line.split():
            case ["poweroff", *_]:
                self._power_off()
            case ["reboot", *_]:
                self._event("running", "the guest was reset")
                self._boot()
            case ["crash"]:
                self._crash()
            case ["panic"]:
                self._panic()
            case ["echo", *words]:
                self._say(" ".join(words) + "\r\n")
            case [word, *_]:
                self._say(f"sh: {word}: not found\r\n")
            case _:
                pass

    # the hypervisor

    def _obey(self, verb: str) -> Mapping[str, object]:
        match verb:
            case "save":
                return {"state": self._state, "ticks": self._ticks}
            case "identify":
                return {"vm": self._config["vm"], "run": self._config["run"]}
            case "shutdown":
                if "fake.deaf" not in self._words and self._state == "running":
                    self._timers.append((time.monotonic() + 0.02, self._power_off))
            case "reset":
                if self._state == "halted":
                    self._state = "running"
                    self._event("running")
                self._boot()
            case "pause" if self._state == "running":
                self._state = "paused"
                self._event("paused")
            case "resume" if self._state in {"paused", "halted"}:
                self._state = "running"
                self._event("running")
            case "quit":
                sys.exit(0)
            case _:
                pass  # nothing to do in this state
        return {"state": self._state}

    def _event(self, state: str, detail: str = "") -> None:
        self._tell({"event": state, "detail": detail})

    def _tell(self, message: Mapping[str, object]) -> None:
        client = self._clients.get("control")
        if client is not None:
            with contextlib.suppress(OSError):
                client.sendall(json.dumps(message).encode() + b"\n")

    # sockets

    def _accept(self, name: str, server: socket.socket) -> None:
        """One client at a time: the others wait in the queue, which is looked at again when this one has left."""
        client, _ = server.accept()
        self._clients[name] = client
        self._selector.unregister(server)
        self._selector.register(client, selectors.EVENT_READ, lambda: self._read(name, server))

    def _read(self, name: str, server: socket.socket) -> None:
        client = self._clients[name]
        try:
            data = client.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(client)
            self._clients.pop(name).close()
            self._requests = b"" if name == "control" else self._requests
            self._selector.register(server, selectors.EVENT_READ, lambda: self._accept(name, server))
        elif name == "console":
            self._typing(data)
        else:
            *lines, self._requests = (self._requests + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                self._tell({"id": request["id"], **self._obey(request["do"])})

    def _answer(self, server: socket.socket) -> None:
        client, _ = server.accept()
        with client, contextlib.suppress(OSError):
            if self._state == "running":
                client.settimeout(1)
                client.recv(65536)
                body = f"hello from {self._config['name']}\n"
                client.sendall(PAGE.format(len(body), body).encode())

    def _echo(self, server: socket.socket) -> None:
        data, address = server.recvfrom(65536)
        if self._state == "running":
            server.sendto(data, address)


if __name__ == "__main__":
    FakeGuest(json.loads(Path(sys.argv[1]).read_text())).run()

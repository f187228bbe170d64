"""An agent in a guest that is none: the wire of QEMU's guest agent, faithful, and faults that a test can turn on.

Listens on a unix socket as a hypervisor's channel would: one client at a time, bytes in no particular portions, and
whatever an agent has still to say comes to whoever connects next.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DELIMITER = b"\xff"
OFFERED = (
    "guest-sync-delimited",
    "guest-ping",
    "guest-info",
    "guest-get-osinfo",
    "guest-get-host-name",
    "guest-network-get-interfaces",
    "guest-get-fsinfo",
    "guest-exec",
    "guest-exec-status",
    "guest-fsfreeze-status",
    "guest-fsfreeze-freeze",
    "guest-fsfreeze-thaw",
    "guest-shutdown",
)
MACHINE = {
    "guest-get-osinfo": {"pretty-name": "Debian GNU/Linux 12", "kernel-release": "6.1", "id": "debian"},
    "guest-get-host-name": {"host-name": "web-1"},
    "guest-network-get-interfaces": [
        {"name": "lo", "ip-addresses": [{"ip-address": "127.0.0.1", "ip-address-type": "ipv4", "prefix": 8}]},
        {
            "name": "eth0",
            "hardware-address": "52:4E:00:00:00:01",
            "ip-addresses": [{"ip-address": "10.0.2.15", "ip-address-type": "ipv4", "prefix": 24}],
        },
    ],
    "guest-get-fsinfo": [
        {"name": "vda", "mountpoint": "/", "type": "ext4", "used-bytes": 1000, "total-bytes": 4000, "disk": []}
    ],
}


@dataclass
class FakeAgent:
    """What it answers, and how it misbehaves."""

    offered: tuple[str, ...] = OFFERED
    answers: dict[str, Any] = field(default_factory=lambda: dict(MACHINE))
    """Command to what is returned; an exception text in a dict with `class` is an error."""
    silent: set[str] = field(default_factory=set[str])
    """Commands that it does not answer."""
    stale: bytes = b""
    """What it still has to say to the next client."""
    portion: int = 0
    """Send so many bytes at a time; 0: all at once."""
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    """Commands that are answered by these very bytes."""
    frozen: bool = False
    running: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list[tuple[str, dict[str, Any]]])
    clients: int = 0
    at_once: int = 0
    on_exec: Callable[[dict[str, Any]], dict[str, Any]] = lambda _arguments: {"exited": True, "exitcode": 0}

    @property
    def commands(self) -> list[str]:
        """What was asked, without the syncs."""
        return [name for name, _ in self.asked if name != "guest-sync-delimited"]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to one client."""
        self.clients += 1
        try:
            if self.stale:
                said, self.stale = self.stale, b""
                await self._send(writer, said)
            while line := await reader.readline():
                # An agent drops what it was reading when it sees the delimiter.
                await self._take(writer, line.rpartition(DELIMITER)[2])
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _take(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:
            await self._send(writer, _error("GenericError", "Invalid JSON syntax"))
            return
        name, arguments = message["execute"], message.get("arguments", {})
        self.asked.append((name, arguments))
        self.at_once += 1
        if name in self.silent:
            return
        if name in self.raw:
            await self._send(writer, self.raw[name])
            return
        await self._send(writer, self._answer(name, arguments))

    def _answer(self, name: str, arguments: dict[str, Any]) -> bytes:
        if name not in self.offered:
            return _error("CommandNotFound", f"The command {name} has not been found")
        match name:
            case "guest-sync-delimited":
                return DELIMITER + _return(arguments["id"])
            case "guest-info":
                return _return(
                    {"version": "7.2.0", "supported_commands": [{"name": one, "enabled": True} for one in self.offered]}
                )
            case "guest-fsfreeze-freeze":
                self.frozen = True
                return _return(1)
            case "guest-fsfreeze-thaw":
                self.frozen = False
                return _return(1)
            case "guest-fsfreeze-status":
                return _return("frozen" if self.frozen else "thawed")
            case "guest-exec":
                pid = 100 + len(self.running)
                self.running[pid] = self.on_exec(arguments)
                return _return({"pid": pid})
            case "guest-exec-status":
                return _return(self.running[arguments["pid"]])
            case _:
                found = self.answers.get(name, {})
                return _error(found["class"], found["desc"]) if "desc" in found else _return(found)

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        step = self.portion or len(data)
        for start in range(0, len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if self.portion:
                await asyncio.sleep(0)


def ended(code: int = 0, out: bytes = b"", err: bytes = b"", **more: Any) -> dict[str, Any]:
    """The status of a command that has ended."""
    status = {"exited": True, "exitcode": code, "out-data": base64.b64encode(out).decode(), **more}
    return {**status, "err-data": base64.b64encode(err).decode()} if err else status


def _return(value: Any) -> bytes:
    return json.dumps({"return": value}).encode() + b"\n"


def _error(kind: str, text: str) -> bytes:
    return json.dumps({"error": {"class": kind, "desc": text}}).encode() + b"\n"


@asynccontextmanager
async def serving(agent: FakeAgent, socket: Path) -> AsyncGenerator[Path]:
    """Let it listen for as long as the block lasts."""
    server = await asyncio.start_unix_server(agent.serve, socket, limit=1 << 24)
    try:
        yield socket
    finally:
        server.close()
        socket.unlink(missing_ok=True)

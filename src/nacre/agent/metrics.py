"""Numbers about the agent in Prometheus' text format, on an address of its own if the settings name one."""

import asyncio
import contextlib
from collections import Counter as Tally
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass

from nacre.agent.observer import Observer
from nacre.errors import ConflictError
from nacre.lib.configuration import split_address
from nacre.model.vms import Phase

_REQUEST_S = 5.0
_MOST = 16 << 10


@dataclass(frozen=True, kw_only=True)
class Safety:
    """How far the node is from running anything that it should not run any more."""

    lease_s: float = 0.0
    guards: int = 0
    frozen: int = 0
    copies: int = 0
    copies_bytes: int = 0


class Metrics:
    """What is counted and measured."""

    def __init__(
        self,
        observer: Observer,
        *,
        link_up: Callable[[], bool],
        cache_bytes: Callable[[], int],
        safety: Callable[[], Safety] = Safety,
        machines: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        """`machines` are the lines about each of them."""
        self._observer = observer
        self._link_up = link_up
        self._cache_bytes = cache_bytes
        self._safety = safety
        self._lines = machines
        self._steps: Tally[tuple[str, str]] = Tally()

    def step(self, name: str, outcome: str) -> None:
        """Count a step of the executor."""
        self._steps[name, outcome] += 1

    def text(self) -> str:
        """Return everything. The format: https://prometheus.io/docs/instrumenting/exposition_formats/"""
        machines = self._observer.all()
        phases = Tally(vm.phase for vm in machines)
        safety = self._safety()
        lines = [
            "# HELP nacre_agent_link_up Whether the control plane can be talked to.",
            "# TYPE nacre_agent_link_up gauge",
            f"nacre_agent_link_up {int(self._link_up())}",
            "# HELP nacre_agent_vms Machines on this node by phase.",
            "# TYPE nacre_agent_vms gauge",
            *(f'nacre_agent_vms{{phase="{phase}"}} {phases[phase]}' for phase in Phase),
            "# HELP nacre_agent_vms_failing Machines that are not as they should be because of a failure.",
            "# TYPE nacre_agent_vms_failing gauge",
            f"nacre_agent_vms_failing {sum(vm.failure is not None for vm in machines)}",
            "# HELP nacre_agent_steps_total Steps carried out, by kind and outcome.",
            "# TYPE nacre_agent_steps_total counter",
            *(
                f'nacre_agent_steps_total{{step="{step}",outcome="{outcome}"}} {count}'
                for (step, outcome), count in sorted(self._steps.items())
            ),
            "# HELP nacre_agent_image_cache_bytes Size of the cached images.",
            "# TYPE nacre_agent_image_cache_bytes gauge",
            f"nacre_agent_image_cache_bytes {self._cache_bytes()}",
            "# HELP nacre_agent_lease_seconds How long machines that are restarted elsewhere may run on as it is.",
            "# TYPE nacre_agent_lease_seconds gauge",
            f"nacre_agent_lease_seconds {safety.lease_s:.1f}",
            "# HELP nacre_agent_guards Guests that are frozen when the lease ends.",
            "# TYPE nacre_agent_guards gauge",
            f"nacre_agent_guards {safety.guards}",
            "# HELP nacre_agent_vms_frozen Guests that stand still because the lease has ended.",
            "# TYPE nacre_agent_vms_frozen gauge",
            f"nacre_agent_vms_frozen {safety.frozen}",
            "# HELP nacre_agent_copies What machines left behind that have moved away.",
            "# TYPE nacre_agent_copies gauge",
            f"nacre_agent_copies {safety.copies}",
            "# HELP nacre_agent_copies_bytes What the copies take.",
            "# TYPE nacre_agent_copies_bytes gauge",
            f"nacre_agent_copies_bytes {safety.copies_bytes}",
            *self._lines(),
        ]
        return "\n".join(lines) + "\n"

    @contextlib.asynccontextmanager
    async def served(self, address: str) -> AsyncGenerator[None]:
        """Serve on `address` (nowhere if it is empty). Raises ConflictError if it is taken."""
        if not address:
            yield
            return
        host, port = split_address(address, field="metrics_listen")
        try:
            server = await asyncio.start_server(self._answer, host, port, limit=_MOST)
        except OSError as error:
            raise ConflictError(
                "address_in_use",
                f"cannot serve metrics on {address}: {error.strerror}",
                hint="choose another address with --metrics-listen",
                field="metrics_listen",
            ) from error
        try:
            yield
        finally:
            server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(_REQUEST_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self._response(head.split(b"\r\n", 1)[0].decode(errors="replace")))
                await writer.drain()
        writer.close()

    def _response(self, request: str) -> bytes:
        match request.split():
            case ["GET", "/metrics", _]:
                status, kind, body = "200 OK", "text/plain; version=0.0.4; charset=utf-8", self.text()
            case ["GET", "/healthz", _]:
                status, kind, body = "200 OK", "text/plain", "ok\n"
            case _:
                status, kind, body = "404 Not Found", "text/plain", "look at /metrics or /healthz\n"
        data = body.encode()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        return head.encode() + data

"""What is said to one Firecracker, in its words. Used by `guest` and `driver`.

One connection, one question at a time. Refusals become DriverErrors by the table in `refusals`. Nothing is asked twice:
who does not get an answer looks at what has become of it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import structlog

from nacre.agent.hypervisors.firecracker import refusals
from nacre.agent.hypervisors.firecracker.config import Request
from nacre.lib import processes
from nacre.lib.unix_http import UnixHttp

log = structlog.get_logger()


class Api:
    """The API of one process."""

    def __init__(self, socket: Path) -> None:
        self._http = UnixHttp(socket)

    async def connect(self, timeout: float) -> processes.Peer | None:
        """Return who listens. Raises OSError if nobody does, TimeoutError."""
        return await self._http.connect(timeout)

    async def ask(self, path: str, *, timeout: float) -> Mapping[str, object]:
        """Ask for something. Raises DriverError."""
        found = await self._request("GET", path, None, timeout)
        if not isinstance(found, dict):
            raise refusals.meaning(200, "")
        return cast("Mapping[str, object]", found)

    async def tell(self, request: Request, *, timeout: float) -> None:
        """Have something done. Raises DriverError."""
        await self._request(request.method, request.path, request.body, timeout)

    async def put(self, path: str, body: Mapping[str, object], *, timeout: float) -> None:
        """Have something made, or done."""
        await self._request("PUT", path, body, timeout)

    async def patch(self, path: str, body: Mapping[str, object], *, timeout: float) -> None:
        """Have something changed."""
        await self._request("PATCH", path, body, timeout)

    async def delete(self, path: str, *, timeout: float) -> None:
        """Have something taken away."""
        await self._request("DELETE", path, None, timeout)

    async def act(self, action: str, *, timeout: float) -> None:
        """Have an action done: InstanceStart, SendCtrlAltDel, FlushMetrics."""
        await self.put("/actions", {"action_type": action}, timeout=timeout)

    async def describe(self, *, timeout: float) -> Mapping[str, object]:
        """Ask who it is and what it does: `id`, `state`, `vmm_version`."""
        return await self.ask("/", timeout=timeout)

    async def devices(self, kind: str, *, timeout: float) -> dict[str, Mapping[str, object]]:
        """Ask for its devices of a kind, by their ids."""
        key, name = {"drives": ("drives", "drive_id"), "nics": ("network-interfaces", "iface_id")}[kind]
        found = (await self.ask("/vm/config", timeout=timeout)).get(key)
        each = cast("list[Mapping[str, object]]", found if isinstance(found, list) else [])
        return {str(device[name]): device for device in each}

    async def close(self) -> None:
        """Hang up."""
        await self._http.close()

    async def _request(self, method: str, path: str, body: object, timeout: float) -> object:
        try:
            answer = await self._http.request(method, path, body, timeout=timeout)
        except OSError as error:  # time-outs are of them
            raise refusals.silent() from error
        if answer.ok:
            return answer.body
        text = _text(answer.body)
        log.warning("firecracker.refused", method=method, path=path, status=answer.status, said=text)
        raise refusals.meaning(answer.status, text)


def _text(body: object) -> str:
    """What it says is wrong: in its own form, or in that of the HTTP layer below it."""
    if isinstance(body, dict):
        said = cast("Mapping[str, object]", body)
        return str(said.get("fault_message") or said.get("error") or "")
    return str(body or "")

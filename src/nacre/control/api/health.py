"""/healthz, /readyz and /metrics: for machines that watch. Public, and tell nothing of any tenant."""

import asyncio
from collections.abc import Mapping
from typing import Any

from litestar import Request, Response, get

from nacre.control.api.calls import OK
from nacre.control.api.metrics import CONTENT_TYPE
from nacre.control.api.parts import Check, Parts, parts_of
from nacre.control.api.problems import UNAVAILABLE
from nacre.schema.common import Out

PATIENCE_S = 2.0


class HealthOut(Out, frozen=True, kw_only=True):
    """The process answers."""

    status: str
    """`ok`."""
    version: str
    """The version that runs."""


class CheckOut(Out, frozen=True, kw_only=True):
    """One thing that must be true for the control plane to be ready."""

    name: str
    """What is looked at."""
    ok: bool
    """Whether it is as it must be."""
    reason: str = ""
    """Why it is not."""


class ReadyOut(Out, frozen=True, kw_only=True):
    """Whether requests should be sent here, and why not."""

    ready: bool
    """Whether all of them are true."""
    checks: list[CheckOut]
    """What was looked at."""


@get("/healthz", opt={"public": True})
async def healthz(request: Request[Any, Any, Any]) -> Response[HealthOut]:
    """Say that the process is alive. Looks at nothing else, so that a database outage does not get it killed."""
    return Response(HealthOut(status="ok", version=parts_of(request).version))


@get("/readyz", opt={"public": True, "errors": ()})
async def readyz(request: Request[Any, Any, Any]) -> Response[ReadyOut]:
    """Say whether the control plane can serve, and if not, why. 503 when it cannot."""
    checks = [await _try(check) for check in parts_of(request).checks]
    ready = all(check.ok for check in checks)
    return Response(ReadyOut(ready=ready, checks=checks), status_code=OK if ready else UNAVAILABLE)


@get("/metrics", opt={"public": True, "produces": "text/plain"})
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Numbers for Prometheus. Those from the database are as they were when it last answered."""
    parts = parts_of(request)
    phases = await _count(parts)
    if phases is not None:
        parts.metrics.machines(phases)
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE)


async def _count(parts: Parts) -> Mapping[str, int] | None:
    try:
        async with asyncio.timeout(PATIENCE_S):
            return await parts.phases()
    except TimeoutError:
        return None


async def _try(check: Check) -> CheckOut:
    try:
        async with asyncio.timeout(PATIENCE_S):
            reason = await check.reason()
    except TimeoutError:
        reason = f"no answer in {PATIENCE_S:g} s"
    return CheckOut(name=check.name, ok=reason is None, reason=reason or "")


ROUTES = (healthz, readyz, metrics)

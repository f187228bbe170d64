"""What machines that watch are told."""

import asyncio
from dataclasses import replace

import pytest

from nacre.control.api import health
from nacre.control.api.parts import Check
from nacre.control.api.routes import serve
from support.api import Api

pytestmark = pytest.mark.anyio


async def fine() -> str | None:
    return None


async def broken() -> str | None:
    return "the disk is on fire"


async def silent() -> str | None:
    await asyncio.sleep(60)
    return None


async def test_a_process_that_answers_is_healthy(one_api: Api) -> None:
    async with one_api.client("") as client:
        assert (await client.get("/healthz")).json() == {"status": "ok", "version": "0.0.0"}


async def test_readiness_says_what_is_wrong(one_api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)
    checks = (Check(name="good", reason=fine), Check(name="bad", reason=broken), Check(name="slow", reason=silent))
    one_api.asgi = serve(replace(one_api.parts, checks=checks))
    async with one_api.client("") as client:
        answer = await client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json() == {
        "ready": False,
        "checks": [
            {"name": "good", "ok": True, "reason": ""},
            {"name": "bad", "ok": False, "reason": "the disk is on fire"},
            {"name": "slow", "ok": False, "reason": "no answer in 0.05 s"},
        ],
    }


async def test_metrics_count_routes_and_never_name_objects(one_api: Api) -> None:
    async with one_api.client() as client:
        await client.get("/v1/projects/default")
        await client.get("/v1/projects/secret-name")
        await client.get("/nothing/secret-name")
        answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    text = answer.text
    assert 'nacre_http_requests_total{method="GET",route="/v1/projects/{project}",status="200"} 1.0' in text
    assert 'nacre_http_requests_total{method="GET",route="/v1/projects/{project}",status="404"} 1.0' in text
    assert 'route="none",status="404"' in text
    assert 'nacre_build_info{version="0.0.0"} 1.0' in text
    assert "process_resident_memory_bytes" in text
    assert "secret-name" not in text

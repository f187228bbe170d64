"""Numbers in a form that others read."""

import asyncio
from datetime import UTC, datetime

import pytest

from nacre.agent.metrics import Metrics, Safety
from nacre.agent.observer import Observer
from nacre.errors import ConflictError
from nacre.model.vms import Phase, VmObserved
from support.intents import vm_id
from support.platform import free_port

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def fact(phase: Phase = Phase.RUNNING) -> VmObserved:
    return VmObserved(id=vm_id(), generation=1, phase=phase, since=NOW)


@pytest.mark.anyio
async def test_metrics_and_health_are_served_and_everything_else_is_not_there():
    observer = Observer()
    observer.changed(fact())
    observer.changed(fact(Phase.CRASHED))
    safety = Safety(lease_s=30.25, guards=4, frozen=1, copies=2, copies_bytes=77)
    metrics = Metrics(observer, link_up=lambda: True, cache_bytes=lambda: 5, safety=lambda: safety)
    metrics.step("start", "failed")
    address = f"127.0.0.1:{free_port()}"
    async with metrics.served(address):
        text = await get(address, "/metrics")
        assert "200 OK" in text
        assert 'nacre_agent_vms{phase="crashed"} 1' in text
        assert "nacre_agent_link_up 1" in text
        assert "nacre_agent_image_cache_bytes 5" in text
        assert "nacre_agent_lease_seconds 30.2" in text
        assert "nacre_agent_guards 4" in text
        assert "nacre_agent_vms_frozen 1" in text
        assert "nacre_agent_copies 2" in text
        assert "nacre_agent_copies_bytes 77" in text
        assert 'nacre_agent_steps_total{step="start",outcome="failed"} 1' in text
        assert "200 OK" in await get(address, "/healthz")
        assert "404" in await get(address, "/etc/passwd")
        with pytest.raises(ConflictError):
            async with metrics.served(address):
                pass
    async with metrics.served(""):
        pass


async def get(address: str, path: str) -> str:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    text = (await reader.read()).decode()
    writer.close()
    return text

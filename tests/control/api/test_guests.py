"""Screens and metrics over the API: bytes both ways, series, live points, and nodes that are away or too old."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime

import httpx2
import msgspec
import pytest
from websockets.asyncio.client import connect

from nacre.client.api import Nacre
from nacre.control.store import nodes
from nacre.model.metrics import MetricPoint, MetricSeries, MetricsQuery, MetricsVerb
from nacre.model.nodes import NodeState
from nacre.protocol.messages import StreamKind
from support.api import Api, obedient_node, tiny_image
from support.local_streams import Echo, LocalStreams
from support.waiting import until

pytestmark = pytest.mark.anyio

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POINT = MetricPoint(at=AT, cpu_cores=0.5, memory_resident_bytes=100)
SERIES = MetricSeries(step_s=10, points=(POINT,))


class Numbers:
    """A node that has measured one point, and measures it again and again."""

    def __init__(self) -> None:
        self.asked: list[MetricsQuery] = []
        self._came = asyncio.Event()

    async def send(self, data: bytes) -> None:
        self.asked.append(msgspec.json.decode(data, type=MetricsQuery))
        self._came.set()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        await self._came.wait()
        if self.asked[-1].verb is MetricsVerb.RANGE:
            content = msgspec.json.encode(SERIES)
            yield content[:7]  # a node sends what is long in pieces
            yield content[7:]
            return
        while True:
            yield msgspec.json.encode(POINT)
            await asyncio.sleep(0.01)


@pytest.fixture
def numbers() -> Numbers:
    return Numbers()


@pytest.fixture
async def streams(numbers: Numbers) -> LocalStreams:
    return LocalStreams(
        {
            StreamKind.DISPLAY: lambda: contextlib.nullcontext(Echo(b"RFB 003.008\n")),
            StreamKind.METRICS: lambda: contextlib.nullcontext(numbers),
        }
    )


@pytest.fixture
async def machine(served: Api, streams: LocalStreams, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Api]:
    """An API with a machine `web` that runs."""
    monkeypatch.setattr(served.streams, "open", streams.open)
    await tiny_image(served)
    async with obedient_node(served.parts.requests.db):
        await served.make("POST", "/v1/vms", {"name": "web", "image": "tiny"}, params={"wait": 20}, timeout=30)
        yield served


async def test_a_screen_is_bytes_both_ways_for_viewers_in_browsers_too(machine: Api, streams: LocalStreams) -> None:
    address = machine.url.replace("http", "ws", 1) + "/v1/vms/web/display"
    async with connect(address, subprotocols=["binary", "token", machine.token], proxy=None) as viewer:  # type: ignore[list-item]
        assert viewer.subprotocol == "binary"
        assert await viewer.recv() == b"RFB 003.008\n"
        await viewer.send(bytes(range(256)))
        assert await viewer.recv() == bytes(range(256))
        assert streams.open_now == 1
    await until(lambda: streams.open_now == 0)


async def test_the_clients_screen_ends_when_the_machines_does(machine: Api) -> None:
    async with Nacre(machine.url, machine.token) as nacre, nacre.display("web") as screen:
        output = screen.output()
        assert await anext(output) == b"RFB 003.008\n"
        await screen.write(b"\x04")
        assert [data async for data in output] == []
        assert "dark" in screen.reason


async def test_a_range_is_passed_on_and_its_series_comes_back(machine: Api, numbers: Numbers) -> None:
    query = {"from": "2026-01-02T00:00:00Z", "to": "2026-01-02T02:00:00+01:00", "step": "60"}
    found = await machine.make("GET", "/v1/vms/web/metrics", params=query)
    assert msgspec.convert(found, MetricSeries) == SERIES
    assert numbers.asked[-1].step_s == 60
    assert numbers.asked[-1].end == datetime(2026, 1, 2, 1, tzinfo=UTC)
    async with Nacre(machine.url, machine.token) as nacre:
        assert await nacre.vms.metrics("web", begin=AT) == SERIES


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-01-02T00:00:00"}, "from"),
        ({"from": "2026-01-02T00:00:00Z", "to": "2026-01-01T00:00:00Z"}, "from"),
        ({"step": "0"}, "step"),
        ({"begin": "2026-01-02T00:00:00Z"}, "begin"),
    ],
)
async def test_a_range_that_is_none_is_refused(machine: Api, query: dict[str, str], field: str) -> None:
    async with machine.client() as client:
        answer = await client.get("/v1/vms/web/metrics", params=query)
    assert (answer.status_code, answer.json()["field"]) == (400, field)


async def test_points_come_as_they_are_measured_and_nothing_stays_open(machine: Api, streams: LocalStreams) -> None:
    headers = {"Authorization": f"Bearer {machine.token}"}
    async with (
        httpx2.AsyncClient(trust_env=False, headers=headers) as client,
        client.stream("GET", f"{machine.url}/v1/vms/web/metrics/live") as live,
    ):
        assert live.headers["content-type"].startswith("text/event-stream")
        found: list[str] = []
        async for line in live.aiter_lines():
            found += [line] if line.startswith("data: ") else []
            if len(found) == 3:
                break
        assert msgspec.convert(json.loads(found[0][6:]), MetricPoint) == POINT
    await until(lambda: streams.open_now == 0)
    async with Nacre(machine.url, machine.token) as nacre:
        points = nacre.vms.follow_metrics("web")
        assert await anext(points) == POINT
        await points.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", ["metrics", "metrics/live"])
async def test_a_node_that_is_away_or_too_old_is_named_with_what_to_do(machine: Api, path: str) -> None:
    async def answer() -> dict[str, str]:
        async with machine.client() as client:
            return (await client.get(f"/v1/vms/web/{path}")).json()

    db = machine.parts.requests.db
    async with db.write() as tx:
        (row,) = await nodes.every(tx, lock=True)
        assert row.facts is not None
        old = msgspec.structs.replace(row.facts, streams=())
        await nodes.save(tx, row, _changed(row, facts=old))
    assert (await answer())["code"] == "agent_too_old"
    async with db.write() as tx:
        (row,) = await nodes.every(tx, lock=True)
        await nodes.save(tx, row, _changed(row, state=NodeState.OFFLINE))
    problem = await answer()
    assert problem["code"] == "node_away"
    assert row.name in problem["detail"]
    assert "nacre node show" in problem["hint"]


def _changed(row: nodes.NodeRow, **changes: object) -> nodes.NodeRow:
    from dataclasses import replace

    return replace(row, **changes)  # type: ignore[arg-type]


async def test_who_may_view_sees_metrics_and_no_screen(machine: Api) -> None:
    token = await machine.user("ann", role="viewer", project="default")
    async with machine.client(token) as client:
        assert (await client.get("/v1/vms/web/metrics")).status_code == 200
    address = machine.url.replace("http", "ws", 1) + "/v1/vms/web/display"
    with pytest.raises(Exception, match="403"):
        async with connect(address, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None):
            pass

"""Events as a list, and as a stream on a real socket that goes on where it broke off."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from nacre.control.api import events
from support.api import Api, on_a_socket
from support.patience import within

pytestmark = pytest.mark.anyio


async def messages(response: httpx2.Response) -> AsyncIterator[dict[str, str]]:
    """The messages of a stream; a comment is a message with only the key ``."""
    message: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            message[name] = value
        elif message:
            yield message
            message = {}


async def follow(
    client: httpx2.AsyncClient, count: int, *, path: str = "/v1/events/stream", **kwargs: Any
) -> list[dict[str, Any]]:
    """Read `count` events from a stream."""
    found: list[dict[str, Any]] = []
    async with within(20), client.stream("GET", path, **kwargs) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        async for message in messages(response):
            if "data" in message:
                event = json.loads(message["data"])
                assert message["id"] == str(event["cursor"])
                found.append(event)
            if len(found) == count:
                break
    return found


def remote(api: Api, token: str = "") -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=api.url, headers={"Authorization": f"Bearer {token or api.token}"}, trust_env=False, timeout=20
    )


async def test_the_list_has_the_latest_and_pages_forward(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.make("POST", "/v1/projects", {"name": name})
    latest = await api.make("GET", "/v1/events", params={"limit": 2, "type": "project.created"})
    assert [event["object_name"] for event in latest["items"]] == ["b", "c"]
    assert latest["next"] is None
    first = await api.make("GET", "/v1/events", params={"limit": 2, "type": "project.created", "after": 0})
    assert [event["object_name"] for event in first["items"]] == ["a", "b"]
    rest = await api.make("GET", "/v1/events", params={"limit": 2, "type": "project.created", "cursor": first["next"]})
    assert [event["object_name"] for event in rest["items"]] == ["c"]
    assert rest["next"] is None


async def test_a_stream_tells_of_what_happens_at_once_and_replays_from_any_cursor(served: Api) -> None:
    async with remote(served) as client:
        following = asyncio.create_task(follow(client, 2, params={"noun": "project"}))
        await asyncio.sleep(0)
        while not served.parts.requests.db.wakes._bells.get("events"):  # until the stream listens
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        await served.make("POST", "/v1/projects", {"name": "a"})
        await served.make("POST", "/v1/users", {"name": "ann"})
        await served.make("POST", "/v1/projects", {"name": "b"})
        seen = await following
        assert [event["object_name"] for event in seen] == ["a", "b"]
        again = await follow(client, 1, params={"noun": "project"}, headers={"Last-Event-ID": str(seen[0]["cursor"])})
        assert again == seen[1:]
        by_parameter = await follow(client, 2, params={"noun": "project", "after": seen[0]["cursor"] - 1})
        assert by_parameter == seen


async def test_the_list_is_the_stream_for_who_accepts_one(served: Api) -> None:
    async with remote(served) as client:
        seen = await follow(client, 1, path="/v1/events", params={"after": 0}, headers={"Accept": "text/event-stream"})
        assert seen[0]["type"] == "user.created"


async def test_a_stream_shows_only_what_its_reader_may_see(served: Api) -> None:
    await served.make("POST", "/v1/projects", {"name": "mine"})
    await served.make("POST", "/v1/projects", {"name": "theirs"})
    token = await served.user("ann", role="viewer", project="mine")
    await served.make("PATCH", "/v1/projects/theirs", {"description": "x"})
    await served.make("PATCH", "/v1/projects/mine", {"description": "x"})
    async with remote(served, token) as client:
        seen = await follow(client, 2, params={"after": 0, "noun": "project"})
    assert [(event["type"], event["object_name"]) for event in seen] == [
        ("project.created", "mine"),
        ("project.updated", "mine"),
    ]


async def test_a_quiet_stream_says_that_it_is_alive_and_ends_with_its_token(
    served: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    made = await served.make("POST", "/v1/tokens", {"name": "short"})
    comments = 0
    async with (
        remote(served, made["secret"]) as client,
        within(20),
        client.stream("GET", "/v1/events/stream") as response,
    ):
        async for message in messages(response):
            comments += "" in message
            if comments == 2:
                await served.make("DELETE", f"/v1/tokens/{made['token']['id']}")
    assert comments >= 2


async def test_a_stream_ends_when_the_program_stops(one_api: Api) -> None:
    async with on_a_socket(one_api) as url:
        one_api.url = url
        async with remote(one_api) as client:
            reading = asyncio.create_task(follow(client, 10_000))
            while not one_api.parts.requests.db.wakes._bells.get("events"):
                await asyncio.sleep(0.01)
            one_api.parts.requests.stopping.set()
            one_api.parts.requests.db.wakes.ring("events")
            assert await reading == []


@pytest.mark.parametrize("cursor", ["x", "-1", "9" * 30])
async def test_a_cursor_that_is_none_is_refused(one_api: Api, cursor: str) -> None:
    async with one_api.client() as client:
        answer = await client.get("/v1/events/stream", headers={"Last-Event-ID": cursor})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_cursor")

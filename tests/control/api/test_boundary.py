"""What every answer carries, whatever the route."""

import pytest
from structlog.testing import capture_logs

from support.api import Api
from support.patience import within

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("path", ["/v1/me", "/docs", "/nothing", "/healthz?x"])
async def test_every_answer_has_a_request_id_and_security_headers(one_api: Api, path: str) -> None:
    async with one_api.client("") as client:
        headers = (await client.get(path)).headers
    assert headers["x-request-id"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"]


async def test_a_request_id_is_taken_over_into_events_and_logs(one_api: Api) -> None:
    with capture_logs() as logs:
        await one_api.make("POST", "/v1/projects", {"name": "web"}, headers={"X-Request-Id": "mine-1"})
    events = await one_api.make("GET", "/v1/events?type=project.created")
    assert [event["request_id"] for event in events["items"]] == ["mine-1"]
    assert any(line["event"] == "http.answered" and line["route"] == "/v1/projects" for line in logs)


@pytest.mark.parametrize("bad", ["x" * 129, 'a"b', "a b", "ü"])
async def test_a_request_id_that_could_do_harm_is_replaced(one_api: Api, bad: str) -> None:
    async with one_api.client("") as client:
        answer = await client.get("/healthz", headers=[(b"x-request-id", bad.encode())])
    assert answer.headers["x-request-id"] != bad
    assert len(answer.headers["x-request-id"]) == 24


async def test_options_lists_the_methods_of_a_path(one_api: Api) -> None:
    async with one_api.client("") as client:
        answer = await client.options("/v1/vms/web")
        assert answer.status_code == 204
        assert answer.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH"
        assert (await client.options("/v1/nodes/tokens")).headers["allow"] == "GET, HEAD, OPTIONS, POST"
        assert (await client.options("/nothing")).status_code == 404


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/me", "/v1/vms/web", "/v1/nothing"])
async def test_head_is_get_without_a_body(served: Api, path: str) -> None:
    async with served.client("") as client:
        whole = await client.get(path)
        for _ in range(2):  # on the same connection
            answer = await client.head(path)
            assert (answer.status_code, answer.content) == (whole.status_code, b"")
            assert answer.headers["content-length"] == whole.headers["content-length"]


async def test_the_head_of_a_stream_ends(served: Api) -> None:
    async with within(10), served.client() as client:
        answer = await client.head("/v1/events/stream")
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, "text/event-stream")

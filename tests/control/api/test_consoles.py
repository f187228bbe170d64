"""The console over a real WebSocket, and the log: bytes both ways, refusals as problems."""

import json
from collections.abc import AsyncGenerator

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from nacre.client.api import Nacre
from nacre.control.api import sockets
from nacre.protocol.messages import StreamKind
from support.api import Api, obedient_node, tiny_image
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
async def machine(served: Api) -> AsyncGenerator[Api]:
    """An API with a machine `web` that runs."""
    await tiny_image(served)
    async with obedient_node(served.parts.requests.db):
        body = {"name": "web", "image": "tiny"}
        await served.make("POST", "/v1/vms", body, params={"wait": 20}, timeout=30)
        yield served


def console(api: Api, token: str | None = None, path: str = "/v1/vms/web/console", **kwargs: object) -> connect:
    secret = api.token if token is None else token
    headers = {"Authorization": f"Bearer {secret}"} if secret else {}
    address = api.url.replace("http", "ws", 1) + path
    return connect(address, additional_headers=headers, proxy=None, compression=None, **kwargs)  # type: ignore[arg-type]


async def read(connection: ClientConnection) -> bytes:
    async with within(10):
        data = await connection.recv()
    assert isinstance(data, bytes)
    return data


async def test_scrollback_comes_first_then_bytes_both_ways(machine: Api) -> None:
    async with console(machine) as connection:
        assert await read(connection) == b"login: "
        await connection.send(b"root\n")
        assert await read(connection) == b"root\n"
        await connection.send("text too")
        assert await read(connection) == b"text too"
        await connection.send(bytes(range(256)))
        assert await read(connection) == bytes(range(256))
    await until(lambda: machine.streams.open_now == 0)
    assert machine.streams.opened[0][2] is StreamKind.CONSOLE


async def test_a_console_that_the_machine_ends_is_closed_in_good_order(machine: Api) -> None:
    async with console(machine) as connection:
        await read(connection)
        await connection.send(b"\x04")
        await connection.wait_closed()
        assert connection.close_code == 1000


async def test_a_browser_shows_its_token_as_a_subprotocol(machine: Api) -> None:
    async with console(machine, "", subprotocols=["token", machine.token]) as connection:
        assert connection.subprotocol == "token"
        assert await read(connection) == b"login: "


@pytest.mark.parametrize(
    ("token", "path", "status", "code"),
    [
        ("", "/v1/vms/web/console", 401, "token_missing"),
        ("nonsense", "/v1/vms/web/console", 401, "token_unknown"),
        (None, "/v1/vms/gone/console", 404, "vm_not_found"),
        (None, "/v1/vms/web/console?proyect=x", 400, "unknown_parameter"),
    ],
)
async def test_a_refusal_is_an_http_problem(machine: Api, token: str | None, path: str, status: int, code: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with console(machine, token, path):
            pass
    assert refused.value.response.status_code == status
    problem = json.loads(refused.value.response.body or b"")
    assert problem["code"] == code
    assert problem["hint"]


async def test_a_viewer_may_not_type(machine: Api) -> None:
    token = await machine.user("ann", role="viewer", project="default")
    with pytest.raises(InvalidStatus) as refused:
        async with console(machine, token):
            pass
    assert refused.value.response.status_code == 403


async def test_a_console_ends_with_the_token_that_opened_it(machine: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "LOOK_AGAIN_S", 0.05)
    made = await machine.make("POST", "/v1/tokens", {"name": "short"})
    async with console(machine, made["secret"]) as connection:
        await read(connection)
        await machine.make("DELETE", f"/v1/tokens/{made['token']['id']}")
        async with within(10):
            await connection.wait_closed()
        assert connection.close_code == 1008
        assert "revoked" in (connection.close_reason or "")


async def test_a_console_is_told_when_the_program_stops(machine: Api) -> None:
    async with console(machine) as connection:
        await read(connection)
        machine.parts.requests.stopping.set()
        async with within(10):
            await connection.wait_closed()
        assert connection.close_code == 1001


async def test_several_viewers_share_a_machine(machine: Api) -> None:
    async with console(machine) as one, console(machine) as other:
        assert await read(one) == await read(other) == b"login: "


async def test_plain_http_at_the_console_is_refused_politely(machine: Api) -> None:
    async with machine.client() as client:
        answer = await client.get("/v1/vms/web/console")
    assert answer.status_code in {404, 405, 426}
    assert answer.json()["hint"]


async def test_the_log_is_plain_text_from_the_end(machine: Api) -> None:
    async with machine.client() as client:
        answer = await client.get("/v1/vms/web/log")
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        assert answer.text == "login: "
        assert (await client.get("/v1/vms/web/log", params={"tail_bytes": 3})).text == "n: "
        assert (await client.get("/v1/vms/web/log", params={"tail_bytes": 0})).status_code == 400


async def test_the_client_of_the_project_works_with_this_api(machine: Api) -> None:
    async with Nacre(machine.url, machine.token) as nacre:
        async with nacre.console("web") as opened:
            output = opened.output()
            assert await anext(output) == b"login: "
            await opened.write(b"hello")
            assert await anext(output) == b"hello"
        assert [vm.name for vm in await nacre.vms.all()] == ["web"]
        assert (await nacre.vms.stop("web", wait_s=10)).operation.state == "succeeded"
        events = nacre.events.follow(after=0)
        assert (await anext(events)).type == "user.created"
        await events.aclose()  # type: ignore[attr-defined]


async def test_the_socket_speaks_plain_http_as_well(served: Api) -> None:
    async with httpx2.AsyncClient(base_url=served.url, trust_env=False) as client:
        assert (await client.get("/healthz")).status_code == 200

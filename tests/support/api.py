"""The REST API for tests: the real application over a database, in this process or on a real socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import uvicorn

from nacre.control.api.metrics import Metrics
from nacre.control.api.parts import Check, Parts
from nacre.control.api.routes import serve
from nacre.control.auth.claim import ensure_claim
from nacre.control.reconcilers.failover import Failover
from nacre.control.reconcilers.vms import Placer
from nacre.control.request import Requests
from nacre.control.services import images, vms
from nacre.control.services.enrolments import Joining
from nacre.control.services.failover import Terms
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.settings import Settings
from nacre.control.store.db import Database
from nacre.control.wake import VMS, node_topic
from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import NodeFacts
from nacre.protocol.messages import StreamKind
from support.cloud import SEALER, Agent, make_node
from support.images import kernel


class EchoStream:
    """A console whose guest prints back what is typed."""

    def __init__(self, scrollback: bytes, *, goes_on: bool) -> None:
        self._chunks: asyncio.Queue[bytes | None] = asyncio.Queue()
        if scrollback:
            self._chunks.put_nowait(scrollback)
        if not goes_on:
            self._chunks.put_nowait(None)

    async def send(self, data: bytes) -> None:
        """Type."""
        self._chunks.put_nowait(None if data == b"\x04" else data)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Read until the guest hangs up."""
        while (chunk := await self._chunks.get()) is not None:
            yield chunk


@dataclass
class EchoStreams:
    """Streams to guests that print back what is typed. ^D hangs up."""

    scrollback: bytes = b"login: "
    opened: list[tuple[str, str, StreamKind]] = field(default_factory=list)
    open_now: int = 0

    @contextlib.asynccontextmanager
    async def open(
        self, vm: VmId, node: NodeId, kind: StreamKind, tail_bytes: int = 65536
    ) -> AsyncGenerator[EchoStream]:
        """Open one."""
        self.opened.append((vm, node, kind))
        self.open_now += 1
        try:
            yield EchoStream(self.scrollback[-tail_bytes:], goes_on=kind is StreamKind.CONSOLE)
        finally:
            self.open_now -= 1


@dataclass
class Api:
    """An API, and its first administrator."""

    parts: Parts
    asgi: Any
    streams: EchoStreams
    token: str = ""
    url: str = "http://api.test"

    def client(self, token: str | None = None, **kwargs: Any) -> httpx2.AsyncClient:
        """A client of the application in this process, as the administrator unless a token is given."""
        secret = self.token if token is None else token
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        transport = httpx2.ASGITransport(app=self.asgi, raise_app_exceptions=False)
        return httpx2.AsyncClient(transport=transport, base_url=self.url, headers=headers, **kwargs)

    async def make(self, method: str, path: str, body: Any = None, *, token: str | None = None, **kwargs: Any) -> Any:
        """One call that must succeed; the decoded body."""
        async with self.client(token) as client:
            answer = await client.request(method, path, json=body, **kwargs)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def user(self, name: str, *, role: str | None = None, project: str | None = None) -> str:
        """Make a user with a role and return a token's secret."""
        await self.make("POST", "/v1/users", {"name": name})
        if role is not None:
            await self.make("POST", "/v1/grants", {"user": name, "role": role, "project": project})
        made = await self.make("POST", "/v1/tokens", {"name": f"{name}-token", "user": name})
        return str(made["secret"])


def parts_over(
    db: Database, folder: Path, *, streams: EchoStreams | None = None, checks: tuple[Check, ...] = ()
) -> Parts:
    """Return the parts of an API over this database, with files under `folder`."""
    depot = ImageDepot(folder=folder / "images", reserve_bytes=0)
    requests = Requests(db, asyncio.Event())
    return Parts(
        version="0.0.0",
        settings=Settings(data_dir=str(folder)),
        requests=requests,
        phases=requests.phases,
        streams=streams or EchoStreams(),
        uploads=ImageUploads(db, depot),
        metrics=Metrics("0.0.0"),
        cancellers={"vm": vms.cancel, "image": images.cancel},
        joining=Joining(gateway="127.0.0.1:7481", ca="0" * 64),
        failover=Failover(db, "test", Terms(lease_s=35, per_s=5, max_share=0.5)).watching,
        sealer=SEALER,
        checks=checks,
    )


async def api_over(db: Database, folder: Path) -> Api:
    """Return an API with a redeemed claim."""
    streams = EchoStreams()
    parts = parts_over(db, folder, streams=streams)
    api = Api(parts=parts, asgi=serve(parts), streams=streams)
    folder.mkdir(parents=True, exist_ok=True)
    claim = await ensure_claim(db, folder / "claim")
    made = await api.make("POST", "/v1/claim", {"claim": claim}, token="")
    api.token = made["secret"]
    return api


class QuietServer(uvicorn.Server):
    """uvicorn that leaves signals alone."""

    @contextlib.contextmanager
    def capture_signals(self):
        """Nothing."""
        yield


@contextlib.asynccontextmanager
async def on_a_socket(api: Api) -> AsyncGenerator[str]:
    """Serve the API on a real socket and return its address. Ends as the program does: streams are told to stop."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        api.asgi,
        loop="none",
        http="httptools",
        ws="websockets-sansio",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=3,
    )
    server = QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        api.parts.requests.stopping.set()
        for topic in ("events", "operations"):
            api.parts.requests.db.wakes.ring(topic)
        server.should_exit = True
        await task
        listener.close()


@contextlib.asynccontextmanager
async def obedient_node(db: Database, told: NodeFacts | None = None) -> AsyncGenerator[NodeId]:
    """A node that gets machines and does with them at once what it is told."""
    async with db.write() as tx:
        node = await make_node(tx, told=told)
    agent, placer = Agent(db, node), Placer(db)

    async def obey() -> None:
        with db.wakes.listen(VMS, node_topic(node)) as bell:
            while True:
                await placer.once()
                await agent.sync()
                await bell.wait(1)

    task = asyncio.create_task(obey())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.wait([task])


async def tiny_image(api: Api, *, project: str = "default") -> str:
    """Import an image named `tiny` over the API and return its id."""
    body = {"name": "tiny", "project": project, "artifacts": [{"role": "kernel"}]}
    image = (await api.make("POST", "/v1/images", body))["resource"]["id"]
    async with api.client() as client:
        path = f"/v1/images/{image}/artifacts/kernel/upload"
        answer = await client.patch(path, content=kernel(), headers={"Upload-Offset": "0"})
    assert answer.json()["complete"], answer.text
    return str(image)


async def check_expiry(client: httpx2.AsyncClient, path: str, wrong: str) -> None:
    """What is kept at a path under the name `early` expires in the future, in a zone, or not at all."""
    later, kept = "2099-01-01T00:00:00Z", f"{path}/early"
    for answer in (
        await client.post(path, json={"name": "late", "expires_at": wrong}),
        await client.patch(kept, json={"expires_at": wrong}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_expiry")
        assert answer.json()["field"] == "expires_at"
    assert (await client.get(kept)).json()["expires_at"] == later
    both = await client.patch(kept, json={"expires_at": later, "keep": True})
    assert (both.status_code, both.json()["code"]) == (400, "expiry_twice")
    assert (await client.patch(kept, json={"keep": True})).json()["expires_at"] is None

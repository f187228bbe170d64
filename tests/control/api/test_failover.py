"""Lost nodes over the API: who may look, who may confirm, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacre.control.store import nodes as node_store
from nacre.control.store.db import Database
from nacre.model.nodes import NodeState
from support.api import Api, api_over
from support.cloud import make_node

pytestmark = pytest.mark.anyio


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> Api:
    return await api_over(sqlite_database, tmp_path / "api")


async def offline(database: Database) -> None:
    async with database.write() as tx:
        await make_node(tx)
        before = await node_store.get(tx, "node-1", lock=True)
        assert before is not None
        await node_store.save(tx, before, replace(before, state=NodeState.OFFLINE))


async def test_nothing_is_lost_at_first(api: Api) -> None:
    assert await api.make("GET", "/v1/failover") == {
        "held": False,
        "max_share": 0.5,
        "per_s": 5.0,
        "nodes": [],
        "waiting": 0,
        "queue": [],
    }


async def test_an_operator_confirms_a_loss(api: Api, sqlite_database: Database) -> None:
    await offline(sqlite_database)
    async with api.client() as client:
        answer = await client.post("/v1/failover/confirm", json={"node": "node-1"})
        assert answer.status_code == 409
        assert answer.json()["code"] == "lease_not_over"
        assert "--confirm-dead" in answer.json()["hint"]
        answer = await client.post("/v1/failover/confirm", json={"node": "nobody", "dead": True})
        assert answer.status_code == 404
    confirmed = await api.make("POST", "/v1/failover/confirm", {"node": "node-1", "dead": True})
    assert confirmed["state"] == "failed"


async def test_who_may_view_the_platform_may_look_and_only_its_administrators_confirm(
    api: Api, sqlite_database: Database
) -> None:
    await offline(sqlite_database)
    viewer = await api.user("vera", role="viewer")
    stranger = await api.user("sam")
    async with api.client(viewer) as client:
        assert (await client.get("/v1/failover")).status_code == 200
        refused = await client.post("/v1/failover/confirm", json={"node": "node-1", "dead": True})
        assert refused.status_code == 403
    async with api.client(stranger) as client:
        assert (await client.get("/v1/failover")).status_code == 403

"""Moves, drains and what operators do to nodes, over HTTP."""

import asyncio
from typing import Any

import pytest

from support.api import Api, tiny_image
from support.cloud import Cloud
from support.moving import silence, working
from support.patience import within

pytestmark = pytest.mark.anyio


async def running(api: Api, name: str, **fields: Any) -> Any:
    body = {"name": name, "image": "tiny", **fields}
    return (await api.make("POST", "/v1/vms", body, params={"wait": 20}, timeout=30))["resource"]


async def ended(api: Api, path: str, *, of: str = "") -> Any:
    """What is at `path` (or its part `of`) once it has ended."""
    async with within(30):
        while True:
            found = await api.make("GET", path)
            part = found[of] if of else found
            if part["ended_at"]:
                return found
            await asyncio.sleep(0.02)


async def test_a_machine_is_moved_and_its_move_is_seen(api: Api) -> None:
    await tiny_image(api)
    async with working(api.parts.requests.db):
        vm = await running(api, "web")
        async with api.client() as client:
            begun = await client.post("/v1/vms/web/move")
        assert (begun.status_code, begun.headers["Location"]) == (201, f"/v1/moves/{begun.json()['id']}")
        done = await ended(api, begun.headers["Location"])
        assert (done["state"], done["reason"], done["source"]["name"]) == ("done", "user", vm["node"]["name"])
        now = await api.make("GET", "/v1/vms/web")
        assert now["node"]["name"] == done["target"]["name"] != vm["node"]["name"]
        for query in ({"vm": "web"}, {"state": "done"}, {"reason": "user"}, {"node": vm["node"]["name"]}, {}):
            assert [m["id"] for m in (await api.make("GET", "/v1/moves", params=query))["items"]] == [done["id"]]
        for query in ({"vm": "db"}, {"state": "pending"}, {"node": "nowhere"}, {"project": "nobodys"}):
            assert (await api.make("GET", "/v1/moves", params=query))["items"] == []
        async with api.client() as client:
            late = await client.post(f"/v1/moves/{done['id']}/abort")
            unknown = await client.get("/v1/moves/mov-00000000000000000000000000")
            there = await client.post("/v1/vms/web/move", json={"to": now["node"]["name"]})
            nowhere = await client.post("/v1/vms/web/move", json={"to": "nowhere"})
        assert (late.status_code, late.json()["code"]) == (409, "move_ended")
        assert (unknown.status_code, unknown.json()["code"]) == (404, "move_not_found")
        assert (there.status_code, there.json()["code"]) == (409, "vm_already_there")
        assert (nowhere.status_code, nowhere.json()["code"]) == (404, "node_not_found")


async def test_a_machine_on_the_only_node_can_go_nowhere(one_api: Api) -> None:
    await tiny_image(one_api)
    async with working(one_api.parts.requests.db, node_count=1):
        await running(one_api, "web")
        async with one_api.client() as client:
            refused = await client.post("/v1/vms/web/move")
    assert (refused.status_code, refused.json()["code"]) == (507, "no_other_node")
    assert "there is no other node" in refused.json()["detail"]


async def test_moves_are_for_who_may_see_the_machine_and_targets_for_who_may_see_nodes(one_api: Api) -> None:
    await tiny_image(one_api)
    ann = await one_api.user("ann", role="operator", project="default")
    bob = await one_api.user("bob")
    async with working(one_api.parts.requests.db):
        await running(one_api, "web")
        async with one_api.client(ann) as client:
            assert (await client.post("/v1/vms/web/move", json={"to": "node-1"})).status_code == 403
            begun = await client.post("/v1/vms/web/move")
            assert begun.status_code == 201
            assert len((await client.get("/v1/moves")).json()["items"]) == 1
        async with one_api.client(bob) as client:
            assert (await client.get("/v1/moves")).json()["items"] == []
            assert (await client.get(begun.headers["Location"])).status_code == 404
            assert (await client.post("/v1/vms/web/move")).status_code == 404
        await ended(one_api, begun.headers["Location"])


async def test_a_node_is_drained_maintained_and_put_back_to_work(api: Api) -> None:
    await tiny_image(api)
    async with working(api.parts.requests.db):
        await running(api, "web")
        node = (await api.make("GET", "/v1/vms/web"))["node"]["name"]
        begun = await api.make("POST", f"/v1/nodes/{node}/drain", {"parallel": 1, "timeout_s": 600})
        assert (begun["wish"], begun["drain"]["machines"], begun["drain"]["parallel"]) == ("draining", 1, 1)
        done = await ended(api, f"/v1/nodes/{node}", of="drain")
        assert (done["state"], done["drain"]["state"], done["vms"], done["copies"]) == ("cordoned", "done", 0, 1)
        (copy,) = (await api.make("GET", f"/v1/nodes/{node}/copies"))["items"]
        assert (copy["vm"]["name"], copy["state"], copy["reason"]) == ("web", "retiring", "drain")
        discarded = await api.make("DELETE", f"/v1/nodes/{node}/copies", params={"vm": "web"})
        assert len(discarded["items"]) == 1
        assert (await api.make("POST", f"/v1/nodes/{node}/maintenance"))["wish"] == "draining"
        rested = await ended(api, f"/v1/nodes/{node}", of="drain")
        assert (rested["state"], rested["wish"]) == ("maintenance", "maintenance")
        assert (await api.make("POST", f"/v1/nodes/{node}/uncordon"))["state"] == "ready"
        async with api.client() as client:
            nothing = await client.post(f"/v1/nodes/{node}/abort-drain")
            wrong = await client.post(f"/v1/nodes/{node}/drain", json={"parallel": 0})
        assert (nothing.status_code, nothing.json()["code"]) == (409, "node_not_draining")
        assert wrong.status_code == 400


async def test_a_lost_node_is_evacuated_and_removed(api: Api) -> None:
    await tiny_image(api)
    db = api.parts.requests.db
    async with working(db) as agents:
        vm = await running(api, "web")
        lost = next(agent for agent in agents if agent.node == vm["node"]["id"])
    await silence(Cloud(db=db, project="", image="", agents=[lost]), lost.node)  # type: ignore[arg-type]
    path = f"/v1/nodes/{lost.node}"
    async with api.client() as client:
        assert (await client.post(f"{path}/drain")).json()["code"] == "node_not_reachable"
        assert (await client.delete(path, params={"force": True})).json()["code"] == "node_maybe_alive"
    left = await api.make("POST", f"{path}/evacuate")
    assert ([one["vm"] for one in left["left"]], left["taken"]) == (["web"], [])
    taken = await api.make("POST", f"{path}/evacuate", {"confirm_dead": True})
    assert (taken["taken"], taken["node"]["wish"]) == (["web"], "cordoned")
    async with api.client() as client:
        assert (await client.delete(path)).json()["code"] == "node_has_copies"
        assert (await client.delete(path, params={"force": True, "confirm_dead": True})).status_code == 204
        assert (await client.get(path)).status_code == 404


async def test_taints_and_place_are_set_and_shown(one_api: Api) -> None:
    async with working(one_api.parts.requests.db, node_count=1):
        body = {"taints": [{"key": "gpu", "effect": "no-schedule"}], "region": "eu", "zone": "eu-1"}
        changed = await one_api.make("PATCH", "/v1/nodes/node-1", body)
        assert changed["taints"] == [{"key": "gpu", "value": "", "effect": "no-schedule"}]
        found = await one_api.make("GET", "/v1/nodes", params={"zone": "eu-1", "region": "eu", "wish": "active"})
        assert [node["name"] for node in found["items"]] == ["node-1"]
        async with one_api.client() as client:
            bad = await client.patch("/v1/nodes/node-1", json={"zone": "no place"})
        assert bad.status_code == 400

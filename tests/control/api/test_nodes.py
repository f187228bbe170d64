"""Nodes and their enrolment tokens over HTTP."""

import pytest

from nacre.protocol import join
from support.api import Api, obedient_node, tiny_image

pytestmark = pytest.mark.anyio


async def test_a_node_is_seen_labelled_cordoned_and_removed(api: Api) -> None:
    async with obedient_node(api.parts.requests.db) as node, api.client() as client:
        assert [n["id"] for n in (await client.get("/v1/nodes")).json()["items"]] == [node]
        assert (await client.get("/v1/nodes/node-1")).json()["state"] == "ready"
        labelled = await client.patch("/v1/nodes/node-1", json={"labels": {"rack": "a"}})
        assert labelled.json()["labels"]["rack"] == "a"
        assert (await client.post("/v1/nodes/node-1/cordon")).json()["state"] == "cordoned"
        assert (await client.get("/v1/nodes", params={"state": "ready"})).json()["items"] == []
        assert (await client.post("/v1/nodes/node-1/uncordon")).json()["state"] == "ready"
        assert (await client.post("/v1/nodes/node-1/allow-teardown")).status_code == 200
    async with api.client() as client:
        assert (await client.delete("/v1/nodes/node-1")).status_code == 204
        assert (await client.get("/v1/nodes/node-1")).json()["code"] == "node_not_found"


async def test_a_node_with_machines_is_not_removed(api: Api) -> None:
    await tiny_image(api)
    async with obedient_node(api.parts.requests.db):
        body = {"name": "web", "image": "tiny"}
        await api.make("POST", "/v1/vms", body, params={"wait": 20}, timeout=30)
        async with api.client() as client:
            answer = await client.delete("/v1/nodes/node-1")
    assert (answer.status_code, answer.json()["code"]) == (409, "node_has_vms")


async def test_an_enrolment_token_is_shown_once_listed_and_revoked(api: Api) -> None:
    async with api.client() as client:
        made = await client.post("/v1/nodes/tokens", json={"node_name": "big", "ttl_s": 600})
        assert made.status_code == 201
        secret = join.decode(made.json()["join"]).secret
        assert "/install.sh | sudo sh" in made.json()["command"]
        assert secret not in made.json()["command"]
        token = made.json()["token"]["id"]
        listed = await client.get("/v1/nodes/tokens")
        assert [t["id"] for t in listed.json()["items"]] == [token]
        assert secret not in listed.text
        assert (await client.get(f"/v1/nodes/tokens/{token}")).json()["node_name"] == "big"
        assert (await client.delete(f"/v1/nodes/tokens/{token}")).status_code == 204
        assert (await client.get("/v1/nodes/tokens")).json()["items"] == []


async def test_nodes_are_not_shown_to_a_project(api: Api) -> None:
    async with api.client(await api.user("ann", role="admin", project="default")) as client:
        assert (await client.get("/v1/nodes")).status_code == 403
        assert (await client.post("/v1/nodes/tokens", json={})).status_code == 403

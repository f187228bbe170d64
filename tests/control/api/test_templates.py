"""Templates, instance types, previews and many machines at once over HTTP."""

import pytest

from support.api import Api, obedient_node, tiny_image

pytestmark = pytest.mark.anyio

GIB = 1 << 30


async def test_a_template_is_made_shown_changed_and_deleted(api: Api) -> None:
    await tiny_image(api)
    async with api.client() as client:
        made = await client.post("/v1/templates", json={"name": "shop", "config": {"image": "tiny", "cpus": 2}})
        assert made.status_code == 201
        assert made.headers["location"] == f"/v1/templates/{made.json()['id']}"
        assert made.json()["image"]["name"] == "tiny"
        assert (await client.get("/v1/templates/shop")).json() == made.json()
        assert (await client.get(made.headers["location"])).headers["etag"] == made.headers["etag"]

        changed = await client.patch(
            "/v1/templates/shop",
            json={"config": {"memory_bytes": GIB}, "clear": ["cpus"]},
            headers={"If-Match": made.headers["etag"]},
        )
        assert (changed.status_code, changed.json()["revision"]) == (200, 2)
        late = await client.patch(
            "/v1/templates/shop", json={"description": "x"}, headers={"If-Match": made.headers["etag"]}
        )
        assert (late.status_code, late.json()["code"]) == (412, "etag_mismatch")
        revisions = (await client.get("/v1/templates/shop/revisions")).json()
        assert [(one["revision"], one["config"]["cpus"]) for one in revisions["items"]] == [(2, None), (1, 2)]
        diff = (await client.get("/v1/templates/shop@1/diff", params={"other": "shop"})).json()
        assert diff["differences"][0] == {"path": "cpus", "left": 2, "right": None, "hidden": False}

        assert (await client.delete("/v1/templates/shop")).status_code == 204
        gone = await client.get("/v1/templates/shop")
        assert (gone.status_code, gone.json()["code"]) == (404, "template_not_found")


async def test_an_instance_type_is_made_shown_changed_and_deleted(api: Api) -> None:
    async with api.client() as client:
        body = {"name": "small", "project": None, "config": {"cpus": 1, "memory_bytes": GIB}}
        made = await client.post("/v1/instance-types", json=body)
        assert (made.status_code, made.json()["project"]) == (201, None)
        assert made.headers["location"] == f"/v1/instance-types/{made.json()['id']}"
        assert (await client.get("/v1/instance-types/small")).json() == made.json()
        listed = (await client.get("/v1/instance-types", params={"name": "small"})).json()
        assert listed["items"] == [made.json()]
        changed = await client.patch("/v1/instance-types/small", json={"config": {"cpus": 2}})
        assert (changed.json()["revision"], changed.json()["config"]["memory_bytes"]) == (2, GIB)
        late = await client.delete("/v1/instance-types/small", headers={"If-Match": made.headers["etag"]})
        assert late.status_code == 412
        assert (await client.delete("/v1/instance-types/small")).status_code == 204
        gone = await client.get("/v1/instance-types/small")
        assert (gone.status_code, gone.json()["code"]) == (404, "instance_type_not_found")


async def test_lists_are_read_in_pages(one_api: Api) -> None:
    for name in ("a", "b", "c"):
        await one_api.make("POST", "/v1/templates", {"name": name, "labels": {"odd": "no" if name == "b" else "yes"}})
        await one_api.make("POST", "/v1/instance-types", {"name": name, "config": {"cpus": 1}})
    async with one_api.client() as client:
        for path in ("/v1/templates", "/v1/instance-types"):
            first = (await client.get(path, params={"limit": 2, "sort": "-name"})).json()
            assert [one["name"] for one in first["items"]] == ["c", "b"]
            rest = (await client.get(path, params={"limit": 2, "sort": "-name", "cursor": first["next"]})).json()
            assert ([one["name"] for one in rest["items"]], rest["next"]) == (["a"], None)
        odd = (await client.get("/v1/templates", params={"label": "odd=yes"})).json()
        assert [one["name"] for one in odd["items"]] == ["a", "c"]


async def test_a_machine_is_made_from_a_template_and_a_type(one_api: Api) -> None:
    await tiny_image(one_api)
    await one_api.make("POST", "/v1/templates", {"name": "shop", "config": {"image": "tiny", "cpus": 2}})
    await one_api.make("POST", "/v1/instance-types", {"name": "small", "config": {"cpus": 1, "memory_bytes": GIB}})
    body = {"name": "web", "template": "shop", "instance_type": "small", "memory_bytes": GIB // 2}
    seen = await one_api.make("POST", "/v1/preview", body)
    made = await one_api.make("POST", "/v1/vms", body)
    vm = made["resource"]
    assert (vm["spec"]["cpus"], vm["spec"]["memory_bytes"]) == (1, GIB // 2)
    assert (vm["template"]["name"], vm["template"]["revision"], vm["instance_type"]["name"]) == ("shop", 1, "small")
    assert made["more"] == []
    assert seen["spec"] == vm["spec"]
    assert {one["path"]: one["layer"] for one in seen["fields"]}["cpus"] == "instance-type"
    preview = await one_api.make("GET", "/v1/templates/shop/preview", params={"instance_type": "small"})
    assert preview["spec"]["memory_bytes"] == GIB
    found = await one_api.make("GET", "/v1/vms", params={"template": "shop", "instance_type": "small"})
    assert [one["name"] for one in found["items"]] == ["web"]


async def test_many_machines_are_one_request_that_can_be_waited_for_and_repeated(one_api: Api) -> None:
    await tiny_image(one_api)
    body = {"name": "web-{n}", "image": "tiny", "count": 3}
    async with obedient_node(one_api.parts.requests.db), one_api.client(timeout=60) as client:
        key = {"Idempotency-Key": "once"}
        answer = await client.post("/v1/vms", json=body, params={"wait": 30}, headers=key)
        assert answer.status_code == 200
        parts = [answer.json(), *answer.json()["more"]]
        assert [one["resource"]["name"] for one in parts] == ["web-1", "web-2", "web-3"]
        assert {one["resource"]["phase"] for one in parts} == {"running"}
        assert {one["operation"]["state"] for one in parts} == {"succeeded"}
        assert len({one["operation"]["id"] for one in parts}) == 3
        again = await client.post("/v1/vms", json=body, params={"wait": 30}, headers=key)
        assert [one["resource"]["id"] for one in (again.json(), *again.json()["more"])] == [
            one["resource"]["id"] for one in parts
        ]
        refused = await client.post("/v1/vms", json=body)
        assert (refused.status_code, refused.json()["code"]) == (409, "vm_name_taken")
        many = await client.post("/v1/vms", json={**body, "count": 101})
        assert (many.status_code, many.json()["field"]) == (400, "count")


async def test_a_token_may_be_for_instance_types_alone(one_api: Api) -> None:
    made = await one_api.make("POST", "/v1/tokens", {"name": "sizes", "actions": ["instance-type:*"]})
    async with one_api.client(made["secret"]) as client:
        good = await client.post("/v1/instance-types", json={"name": "small", "config": {"cpus": 1}})
        assert good.status_code == 201
        refused = await client.post("/v1/templates", json={"name": "shop"})
        assert (refused.status_code, refused.json()["code"]) == (403, "token_not_for_action")

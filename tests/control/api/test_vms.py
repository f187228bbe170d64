"""Machines over HTTP: accepted, waited for, seen; with a node that obeys at once."""

from typing import Any

import pytest

from support.api import Api, obedient_node, tiny_image

pytestmark = pytest.mark.anyio


async def test_a_change_is_accepted_with_its_operation_and_generation(api: Api) -> None:
    await tiny_image(api)
    async with api.client() as client:
        answer = await client.post("/v1/vms", json={"name": "web", "image": "tiny"})
        accepted = answer.json()
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/operations/{accepted['operation']['id']}"
        assert answer.headers["etag"] == accepted["resource"]["etag"]
        assert accepted["operation"]["state"] == "running"
        assert accepted["operation"]["generation"] == accepted["generation"] == 1
        operation = (await client.get(answer.headers["location"])).json()
        assert operation["object_id"] == accepted["resource"]["id"]


async def test_waiting_holds_the_answer_until_the_machine_is_what_was_asked(api: Api) -> None:
    await tiny_image(api)
    async with obedient_node(api.parts.requests.db), api.client() as client:

        async def change(method: str, path: str, **kwargs: Any) -> Any:
            answer = await client.request(method, path, params={"wait": 20}, timeout=30, **kwargs)
            assert answer.status_code == 200, answer.text
            assert answer.json()["operation"]["state"] == "succeeded"
            return answer.json()["resource"]

        made = await change("POST", "/v1/vms", json={"name": "web", "image": "tiny"})
        assert 'nacre_vms{phase="running"} 1.0' in (await client.get("/metrics")).text
        assert (made["phase"], made["conditions"]["converged"]) == ("running", True)
        assert (await change("POST", "/v1/vms/web/pause"))["phase"] == "paused"
        assert (await change("POST", "/v1/vms/web/resume"))["phase"] == "running"
        assert (await change("POST", "/v1/vms/web/reboot"))["phase"] == "running"
        assert (await change("POST", "/v1/vms/web/reset"))["phase"] == "running"
        assert (await change("PATCH", "/v1/vms/web", json={"labels": {"a": "b"}}))["labels"] == {"a": "b"}
        assert (await change("POST", "/v1/vms/web/stop", json={"force": True}))["phase"] == "stopped"
        assert (await change("POST", "/v1/vms/web/start"))["phase"] == "running"
        assert (await change("POST", "/v1/vms/web/stop"))["phase"] == "stopped"
        await change("DELETE", "/v1/vms/web")
        assert (await client.get("/v1/vms/web")).status_code == 404


async def test_a_wait_that_ends_first_answers_that_it_still_runs(api: Api) -> None:
    await tiny_image(api)
    async with api.client() as client:
        answer = await client.post("/v1/vms", params={"wait": 0.1}, json={"name": "web", "image": "tiny"})
    assert answer.status_code == 202
    assert answer.json()["operation"]["state"] == "running"


async def test_a_repeated_change_waits_for_the_first_one(api: Api) -> None:
    await tiny_image(api)
    headers = {"Idempotency-Key": "web-1"}
    body = {"name": "web", "image": "tiny"}
    async with api.client() as client:
        first = await client.post("/v1/vms", json=body, headers=headers)
        async with obedient_node(api.parts.requests.db):
            again = await client.post("/v1/vms", params={"wait": 20}, json=body, headers=headers, timeout=30)
    assert (first.status_code, again.status_code) == (202, 200)
    assert first.json()["operation"]["id"] == again.json()["operation"]["id"]
    assert again.json()["resource"]["phase"] == "running"


async def test_a_machine_that_changed_since_it_was_read_is_left_alone(api: Api) -> None:
    await tiny_image(api)
    made = await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    await api.make("POST", "/v1/vms/web/stop")
    async with api.client() as client:
        late = await client.post("/v1/vms/web/start", headers={"If-Match": made["resource"]["etag"]})
        assert late.status_code == 412
        seen = (await client.get("/v1/vms/web")).headers["etag"]
        assert (await client.post("/v1/vms/web/start", headers={"If-Match": seen})).status_code == 202


async def test_lists_are_narrowed_by_project_label_and_field(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "other"})
    await tiny_image(api)
    await tiny_image(api, project="other")
    await api.make("POST", "/v1/vms", {"name": "a", "image": "tiny", "labels": {"app": "web"}})
    await api.make("POST", "/v1/vms", {"name": "b", "image": "tiny", "start": False})
    await api.make("POST", "/v1/vms", {"name": "c", "image": "tiny", "project": "other"})

    async def names(**params: str) -> list[str]:
        page = await api.make("GET", "/v1/vms", params={"sort": "name", **params})
        return [vm["name"] for vm in page["items"]]

    assert await names() == ["a", "b"]
    assert await names(project="other") == ["c"]
    assert await names(project="*") == ["a", "b", "c"]
    assert await names(label="app=web") == ["a"]
    assert await names(desired="stopped") == ["b"]
    assert await names(project="*", name="c") == ["c"]
    assert (await api.make("GET", "/v1/vms/c", params={"project": "other"}))["name"] == "c"


async def test_one_tenant_does_not_see_another(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "other"})
    await tiny_image(api)
    made = await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    vm, operation = made["resource"]["id"], made["operation"]["id"]
    stranger = await api.user("eve", role="admin", project="other")
    async with api.client(stranger) as client:
        for path in (f"/v1/vms/{vm}", f"/v1/operations/{operation}", f"/v1/vms/{vm}/log", "/v1/vms/web"):
            hidden = await client.get(path)
            assert hidden.status_code == 404, path
        assert (await client.get(f"/v1/vms/{vm}")).json()["code"] == "vm_not_found"
        assert (await client.delete(f"/v1/vms/{vm}")).status_code == 404
        assert (await client.get("/v1/vms", params={"project": "*"})).json()["items"] == []
        assert (await client.get("/v1/operations")).json()["items"] == []
        events = (await client.get("/v1/events")).json()["items"]
        assert {event["object_name"] for event in events} == {"other", "eve:admin"}  # the project, the grant on it


async def test_a_viewer_may_look_but_not_touch(api: Api) -> None:
    await tiny_image(api)
    await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    async with api.client(await api.user("ann", role="viewer", project="default")) as client:
        assert (await client.get("/v1/vms/web")).status_code == 200
        for method, path in (("POST", "/v1/vms/web/stop"), ("DELETE", "/v1/vms/web"), ("GET", "/v1/vms/web/log")):
            answer = await client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path


async def test_an_operation_that_has_not_happened_can_be_cancelled(api: Api) -> None:
    await tiny_image(api)
    made = await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    operation = made["operation"]["id"]
    cancelled = await api.make("POST", f"/v1/operations/{operation}/cancel")
    assert cancelled["state"] == "cancelled"
    assert (await api.make("GET", "/v1/vms/web"))["desired"] == "stopped"
    async with api.client() as client:
        again = await client.post(f"/v1/operations/{operation}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "operation_finished")


async def test_an_operation_can_be_waited_for_by_itself(api: Api) -> None:
    await tiny_image(api)
    made = await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    async with obedient_node(api.parts.requests.db), api.client() as client:
        path = f"/v1/operations/{made['operation']['id']}"
        ended = (await client.get(path, params={"wait": 20}, timeout=30)).json()
    assert (ended["state"], ended["progress"]) == ("succeeded", 1.0)


async def test_a_machine_without_a_node_has_no_log_yet(api: Api) -> None:
    await tiny_image(api)
    await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    async with api.client() as client:
        answer = await client.get("/v1/vms/web/log")
    assert (answer.status_code, answer.json()["code"]) == (409, "vm_not_placed")

"""Projects over HTTP: the shape that all immediate resources share."""

import pytest

from support.api import Api

pytestmark = pytest.mark.anyio


async def test_a_project_is_made_shown_changed_and_deleted(api: Api) -> None:
    async with api.client() as client:
        made = await client.post("/v1/projects", json={"name": "web", "labels": {"team": "a"}})
        assert made.status_code == 201
        assert made.headers["location"] == f"/v1/projects/{made.json()['id']}"
        assert made.headers["etag"] == made.json()["etag"]

        shown = await client.get("/v1/projects/web")
        assert shown.json() == made.json()
        assert (await client.get(made.headers["location"])).json() == made.json()

        changed = await client.patch("/v1/projects/web", json={"description": "pages"})
        assert changed.status_code == 200
        assert changed.json()["description"] == "pages"
        assert changed.headers["etag"] != made.headers["etag"]

        assert (await client.delete("/v1/projects/web")).status_code == 204
        gone = await client.get("/v1/projects/web")
        assert (gone.status_code, gone.json()["code"]) == (404, "project_not_found")


async def test_a_change_with_an_old_etag_changes_nothing(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "web"})
    async with api.client() as client:
        seen = (await client.get("/v1/projects/web")).headers["etag"]
        await client.patch("/v1/projects/web", json={"description": "one"}, headers={"If-Match": seen})
        late = await client.patch("/v1/projects/web", json={"description": "two"}, headers={"If-Match": seen})
        assert (late.status_code, late.json()["code"]) == (412, "etag_mismatch")
        assert (await client.get("/v1/projects/web")).json()["description"] == "one"
        gone = await client.delete("/v1/projects/web", headers={"If-Match": seen})
        assert gone.status_code == 412


async def test_a_list_is_read_in_pages_filtered_and_sorted(api: Api) -> None:
    for name in ("a", "b", "c"):
        await api.make("POST", "/v1/projects", {"name": name, "labels": {"kind": "x" if name != "b" else "y"}})
    async with api.client() as client:
        first = (await client.get("/v1/projects", params={"limit": 2, "sort": "-name"})).json()
        assert [project["name"] for project in first["items"]] == ["default", "c"]
        rest = (await client.get("/v1/projects", params={"limit": 2, "sort": "-name", "cursor": first["next"]})).json()
        assert [project["name"] for project in rest["items"]] == ["b", "a"]
        assert rest["next"] is None
        labelled = (await client.get("/v1/projects", params={"label": "kind=x", "sort": "name"})).json()
        assert [project["name"] for project in labelled["items"]] == ["a", "c"]
        named = (await client.get("/v1/projects", params={"name": "b"})).json()
        assert [project["name"] for project in named["items"]] == ["b"]


async def test_the_same_idempotency_key_makes_one_project(api: Api) -> None:
    async with api.client() as client:
        headers = {"Idempotency-Key": "once"}
        first = await client.post("/v1/projects", json={"name": "web"}, headers=headers)
        again = await client.post("/v1/projects", json={"name": "web"}, headers=headers)
        assert (first.status_code, again.status_code) == (201, 201)
        assert first.json() == again.json()
        assert first.headers["location"] == again.headers["location"]
        other = await client.post("/v1/projects", json={"name": "other"}, headers=headers)
        assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_a_deletion_is_repeatable_with_its_key(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "web"})
    async with api.client() as client:
        headers = {"Idempotency-Key": "gone"}
        assert (await client.delete("/v1/projects/web", headers=headers)).status_code == 204
        assert (await client.delete("/v1/projects/web", headers=headers)).status_code == 204
        assert (await client.delete("/v1/projects/web")).status_code == 404


async def test_a_failed_change_does_not_use_up_its_key(api: Api) -> None:
    async with api.client() as client:
        headers = {"Idempotency-Key": "once"}
        assert (await client.post("/v1/projects", json={"name": "-"}, headers=headers)).status_code == 400
        assert (await client.post("/v1/projects", json={"name": "web"}, headers=headers)).status_code == 201


async def test_a_project_of_others_answers_like_a_missing_one(api: Api) -> None:
    await api.make("POST", "/v1/projects", {"name": "mine"})
    await api.make("POST", "/v1/projects", {"name": "theirs"})
    token = await api.user("ann", role="viewer", project="mine")
    async with api.client(token) as client:
        assert (await client.get("/v1/projects/mine")).status_code == 200
        hidden = await client.get("/v1/projects/theirs")
        missing = await client.get("/v1/projects/nowhere")
        assert hidden.status_code == missing.status_code == 404
        assert hidden.json()["code"] == missing.json()["code"] == "project_not_found"
        listed = (await client.get("/v1/projects")).json()
        assert [project["name"] for project in listed["items"]] == ["mine"]
        forbidden = await client.patch("/v1/projects/mine", json={"description": "x"})
        assert (forbidden.status_code, forbidden.json()["code"]) == (403, "forbidden")
        assert (await client.patch("/v1/projects/theirs", json={"description": "x"})).status_code == 404

"""Images over HTTP: above all the resumable upload."""

import pytest

from support.api import Api, tiny_image
from support.images import kernel, sha256

pytestmark = pytest.mark.anyio


async def test_an_upload_goes_on_where_it_broke_off(api: Api) -> None:
    content = kernel()
    source = {"role": "kernel", "size_bytes": len(content), "sha256": sha256(content)}
    made = await api.make("POST", "/v1/images", {"name": "tiny", "artifacts": [source]})
    path = f"/v1/images/{made['resource']['id']}/artifacts/kernel/upload"
    async with api.client() as client:
        half = await client.patch(path, content=content[:1000], headers={"Upload-Offset": "0"})
        assert half.json() == {"role": "kernel", "offset": 1000, "size_bytes": len(content), "complete": False}
        assert (await client.get(path)).json()["offset"] == 1000
        gap = await client.patch(path, content=content[2000:], headers={"Upload-Offset": "2000"})
        assert gap.status_code == 409
        assert "1000" in gap.json()["hint"]
        rest = await client.patch(path, content=content[1000:], headers={"Upload-Offset": "1000"})
        assert rest.json()["complete"] is True
        image = (await client.get("/v1/images/tiny")).json()
        assert image["state"] == "ready"
        assert image["artifacts"][0]["sha256"] == sha256(content)


async def test_an_upload_with_another_checksum_is_refused(api: Api) -> None:
    source = {"role": "kernel", "sha256": "0" * 64}
    made = await api.make("POST", "/v1/images", {"name": "tiny", "artifacts": [source]})
    path = f"/v1/images/{made['resource']['id']}/artifacts/kernel/upload"
    async with api.client() as client:
        answer = await client.patch(path, content=kernel(), headers={"Upload-Offset": "0"})
        assert answer.status_code == 400
        assert answer.json()["hint"]
        assert (await client.get(path)).json()["offset"] == 0


@pytest.mark.parametrize("offset", [None, "", "-1", "x", "1e3", "9" * 40])
async def test_an_upload_must_say_where_its_bytes_go(one_api: Api, offset: str | None) -> None:
    made = await one_api.make("POST", "/v1/images", {"name": "tiny", "artifacts": [{"role": "kernel"}]})
    path = f"/v1/images/{made['resource']['id']}/artifacts/kernel/upload"
    async with one_api.client() as client:
        headers = {} if offset is None else {"Upload-Offset": offset}
        answer = await client.patch(path, content=b"x", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_offset")


async def test_an_artifact_that_no_image_has_is_not_found(one_api: Api) -> None:
    await tiny_image(one_api)
    async with one_api.client() as client:
        for role, code in (("sound", "artifact_not_found"), ("disk", "artifact_not_declared")):
            answer = await client.get(f"/v1/images/tiny/artifacts/{role}/upload")
            assert (answer.status_code, answer.json()["code"]) == (404, code)


async def test_an_image_in_use_is_kept_and_its_users_named(api: Api) -> None:
    await tiny_image(api)
    await api.make("POST", "/v1/vms", {"name": "web", "image": "tiny"})
    async with api.client() as client:
        answer = await client.delete("/v1/images/tiny")
        assert answer.status_code == 409
        assert "web" in answer.json()["hint"]
        changed = await client.patch("/v1/images/tiny", json={"labels": {"os": "linux"}})
        assert (changed.status_code, changed.json()["labels"]) == (200, {"os": "linux"})


async def test_a_deletion_of_an_image_is_accepted_with_an_operation(api: Api) -> None:
    await tiny_image(api)
    async with api.client() as client:
        answer = await client.delete("/v1/images/tiny")
    assert answer.status_code == 202
    assert answer.json()["operation"]["type"] == "image.delete"
    assert answer.json()["resource"]["state"] == "deleting"

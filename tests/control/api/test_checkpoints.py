"""Checkpoints of machines over HTTP."""

import pytest

from nacre.model.capabilities import Capability
from support.api import Api, check_expiry, obedient_node, tiny_image
from support.cloud import able

pytestmark = pytest.mark.anyio

CAN = able(Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)
GIB = 1 << 30


async def test_a_machine_is_kept_put_back_and_copied(api: Api) -> None:
    await tiny_image(api)
    async with obedient_node(api.parts.requests.db, CAN), api.client() as client:
        body = {"name": "web", "image": "tiny", "disk_bytes": GIB}
        assert (await client.post("/v1/vms", json=body, params={"wait": 30})).status_code == 200
        made = await client.post("/v1/vms/web/checkpoints", json={"name": "early", "memory": True}, params={"wait": 30})
        assert (made.status_code, made.json()["operation"]["state"]) == (200, "succeeded")
        assert made.json()["operation"]["type"] == "vm.checkpoint"
        listed = (await client.get("/v1/vms/web/checkpoints", params={"name": "early"})).json()["items"]
        shown = (await client.get("/v1/vms/web/checkpoints/early")).json()
        assert listed == [shown]
        assert (shown["phase"], shown["consistency"], shown["vm"]["name"]) == ("ready", "memory", "web")
        assert (await client.get("/v1/vms/web")).json()["checkpoints"] == 1

        refused = await client.post("/v1/vms/web/restore", json={"checkpoint": "early"})
        assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (409, "vm_running", "stop")
        back = await client.post("/v1/vms/web/restore", json={"checkpoint": "early", "stop": True}, params={"wait": 30})
        assert back.json()["operation"]["state"] == "succeeded"
        late = await client.post(
            "/v1/vms/web/restore", json={"checkpoint": "early", "stop": True}, headers={"If-Match": '"1"'}
        )
        assert late.status_code == 412

        copied = await client.post("/v1/vms", json={"name": "copy", "checkpoint": "web/early"}, params={"wait": 30})
        assert (copied.status_code, copied.json()["resource"]["phase"]) == (200, "running")
        preview = await client.post("/v1/preview", json={"name": "other", "checkpoint": shown["id"]})
        fields = {one["path"]: one["layer"] for one in preview.json()["fields"]}
        assert fields["disk_bytes"] == "checkpoint"

        changed = await client.patch("/v1/vms/web/checkpoints/early", json={"protected": True, "description": "x"})
        assert (changed.json()["protected"], changed.json()["description"]) == (True, "x")
        kept = await client.delete("/v1/vms/web/checkpoints/early")
        assert (kept.status_code, kept.json()["code"]) == (409, "checkpoint_protected")
        await client.patch("/v1/vms/web/checkpoints/early", json={"protected": False})
        gone = await client.delete("/v1/vms/web/checkpoints/early", params={"wait": 30})
        assert gone.json()["operation"]["state"] == "succeeded"
        missing = await client.get("/v1/vms/web/checkpoints/early")
        assert (missing.status_code, missing.json()["code"]) == (404, "checkpoint_not_found")


@pytest.mark.parametrize("when", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00"])
async def test_a_checkpoint_expires_in_the_future_and_in_a_zone(one_api: Api, when: str) -> None:
    await tiny_image(one_api)
    async with obedient_node(one_api.parts.requests.db, CAN), one_api.client() as client:
        body = {"name": "web", "image": "tiny", "disk_bytes": GIB}
        assert (await client.post("/v1/vms", json=body, params={"wait": 30})).status_code == 200
        later = {"name": "early", "expires_at": "2099-01-01T00:00:00Z"}
        assert (await client.post("/v1/vms/web/checkpoints", json=later, params={"wait": 30})).status_code == 200
        await check_expiry(client, "/v1/vms/web/checkpoints", when)

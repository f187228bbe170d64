"""Volumes over HTTP."""

import pytest

from support.api import Api, check_expiry, obedient_node, tiny_image

pytestmark = pytest.mark.anyio

GIB = 1 << 30


@pytest.mark.parametrize("when", ["2001-01-01T00:00:00Z", "2099-01-01T00:00:00"])
async def test_a_snapshot_expires_in_the_future_and_in_a_zone(one_api: Api, when: str) -> None:
    await tiny_image(one_api)
    async with obedient_node(one_api.parts.requests.db), one_api.client() as client:
        body = {"name": "web", "image": "tiny"}
        assert (await client.post("/v1/vms", json=body, params={"wait": 30})).status_code == 200
        assert (await client.post("/v1/volumes", json={"name": "data", "size_bytes": GIB})).status_code < 300
        assert (await client.post("/v1/vms/web/volumes", json={"volume": "data"})).status_code < 300
        later = {"name": "early", "expires_at": "2099-01-01T00:00:00Z"}
        assert (await client.post("/v1/volumes/data/snapshots", json=later)).status_code < 300
        await check_expiry(client, "/v1/volumes/data/snapshots", when)

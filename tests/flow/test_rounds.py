"""Many lives of machines leave nothing behind."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, platform
from support.thorough import EVERY_STEP

pytestmark = pytest.mark.host

ROUNDS = 100 if EVERY_STEP else 50
AT_ONCE = 4


@pytest.mark.timeout(600)
def test_rounds_of_create_start_stop_delete_leave_nothing_behind() -> None:
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        one_life(cloud, "warm-up")
        before = snapshot_of(cloud)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda index: one_life(cloud, f"round-{index}"), range(ROUNDS)))
        assert_as_it_was(cloud, before)
        assert cloud.get("/v1/vms")["items"] == []
        open_operations = cloud.get("/v1/operations", state="running")["items"]
        assert open_operations == []


def one_life(cloud: Platform, name: str) -> None:
    body = {"name": name, "image": "tiny", "memory_bytes": 112 << 20, "disk_bytes": 16 << 20, "start": False}
    cloud.post("/v1/vms", body, wait=60)
    assert cloud.post(f"/v1/vms/{name}/start", wait=60)["resource"]["phase"] == "running"
    assert cloud.post(f"/v1/vms/{name}/stop", {"force": True}, wait=60)["resource"]["phase"] == "stopped"
    cloud.delete(f"/v1/vms/{name}", wait=60)
    assert cloud.vm(name) is None

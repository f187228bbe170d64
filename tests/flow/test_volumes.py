"""A volume through its life, with a real guest that writes to it: attached while it runs, kept, cloned, grown, gone."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from support.console import Console
from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, platform

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

MIB = 1 << 20
WAIT = 90


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform() as running:
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running


def volume(cloud: Platform, name: str) -> Any:
    return cloud.get(f"/v1/volumes/{name}")


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def test_a_volume_lives_through_everything_and_nothing_is_left(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    done(cloud.post("/v1/vms", {"name": "writer", "image": "tiny", "memory_bytes": 128 * MIB}, wait=WAIT))
    eventually(lambda: "NACRE-TINY ready" in cloud.log("writer"), what="a booted guest")
    made = done(cloud.post("/v1/volumes", {"name": "data", "size_bytes": 16 * MIB}, wait=WAIT))
    assert (made["phase"], made["node"]) == ("pending", None)

    vm = done(cloud.post("/v1/vms/writer/volumes", {"volume": "data"}, wait=WAIT))
    assert vm["restart_required"] == []
    assert vm["run"]["volumes"] == [made["id"]]
    assert volume(cloud, "data")["vm"]["name"] == "writer"
    with closing(Console(cloud, "writer")) as shell:
        shell.until("cat /sys/block/vda/serial", made["id"][-20:])
        shell.run("echo before | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null")

        done(cloud.post("/v1/volumes/data/snapshots", {"name": "early", "protected": True}, wait=WAIT))
        shell.run("echo after | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null")
        done(cloud.post("/v1/volumes/data/clone", {"name": "copy"}, wait=WAIT))
        done(cloud.post("/v1/volumes/data/clone", {"name": "old", "snapshot": "early"}, wait=WAIT))
        assert "after" in shell.run("head -c 6 /dev/vda")
        answer = cloud.request("PATCH", "/v1/volumes/data", json={"size_bytes": 32 * MIB}, params={"wait": WAIT})
        assert done(answer.json())["actual_size_bytes"] == 32 * MIB
        shell.until("cat /sys/block/vda/size", str(32 * MIB // 512))

        refused = cloud.request("POST", "/v1/volumes/data/restore", json={"snapshot": "early"})
        assert (refused.status_code, refused.json()["code"]) == (409, "volume_in_use")
        refused = cloud.request("DELETE", "/v1/volumes/data")
        assert (refused.status_code, refused.json()["code"]) == (409, "volume_attached")
        assert "detach" in refused.json()["hint"]

        vm = done(cloud.delete("/v1/vms/writer/volumes/data", wait=WAIT))
        assert vm["run"]["volumes"] == []
        eventually(lambda: volume(cloud, "data")["vm"] is None, what="a free volume")
        done(cloud.post("/v1/volumes/data/restore", {"snapshot": "early"}, wait=WAIT))
        for name, word in (("data", "before"), ("copy", "after"), ("old", "before")):
            done(cloud.post("/v1/vms/writer/volumes", {"volume": name}, wait=WAIT))
            shell.until("head -c 6 /dev/vd?", word)
            done(cloud.delete(f"/v1/vms/writer/volumes/{name}", wait=WAIT))
            eventually(lambda name=name: volume(cloud, name)["vm"] is None, what="a free volume")

        refused = cloud.request("DELETE", "/v1/volumes/data")
        assert refused.json()["code"] == "volume_has_snapshots"
        refused = cloud.request("DELETE", "/v1/volumes/data/snapshots/early")
        assert refused.json()["code"] == "snapshot_protected"
        cloud.request("PATCH", "/v1/volumes/data/snapshots/early", json={"protected": False})
        done(cloud.delete("/v1/volumes/data/snapshots/early", wait=WAIT))
        for name in ("data", "old"):
            done(cloud.delete(f"/v1/volumes/{name}", wait=WAIT))

        # What is deleted with its machine, after the agent was killed in the middle of everything.
        cloud.agent.kill()
        cloud.agent.start()
        done(cloud.post("/v1/vms/writer/volumes", {"volume": "copy", "delete_with_vm": True}, wait=WAIT))
    cloud.delete("/v1/vms/writer", wait=WAIT)
    eventually(lambda: cloud.request("GET", "/v1/volumes/copy").status_code == 404, what="the volume gone")
    left = cloud.root / "agent-0" / "volumes"
    eventually(lambda: not list(left.iterdir()), what="an empty pool")
    records = cloud.root / "agent-0" / "volume-records"
    eventually(lambda: not list(records.iterdir()), what="no records")
    assert_as_it_was(cloud, before)


def test_a_machine_starts_with_its_volumes_and_goes_where_they_are(cloud: Platform) -> None:
    done(cloud.post("/v1/volumes", {"name": "boot", "size_bytes": 8 * MIB}, wait=WAIT))
    cloud.post("/v1/vms", {"name": "later", "image": "tiny", "memory_bytes": 128 * MIB, "start": False}, wait=WAIT)
    done(cloud.post("/v1/vms/later/volumes", {"volume": "boot"}, wait=WAIT))
    assert volume(cloud, "boot")["node"] is None
    started = done(cloud.post("/v1/vms/later/start", wait=WAIT))
    assert volume(cloud, "boot")["node"] == started["node"]
    assert started["run"]["volumes"] == [volume(cloud, "boot")["id"]]
    held = cloud.get("/v1/vms/later/volumes")["items"]
    assert [(one["volume"]["name"], one["open"], one["leaving"]) for one in held] == [("boot", True, False)]
    assert cloud.get("/v1/pools/local")["volumes"] == 1
    (said,) = eventually(lambda: cloud.get("/v1/pools/local")["nodes"], what="what the node says of its pool")
    assert said["available"]
    assert said["capabilities"]["live_snapshots"]
    cloud.delete("/v1/vms/later", wait=WAIT)
    assert volume(cloud, "boot")["vm"] is None
    done(cloud.delete("/v1/volumes/boot", wait=WAIT))

"""Checkpoints with a real guest: its disks and its memory come back, and a machine made from one is somebody else."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.console import Console
from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, platform

pytestmark = [pytest.mark.host, pytest.mark.timeout(900)]

MIB = 1 << 20
WAIT = 120
COUNTING = "(i=0; while true; do i=$((i+1)); echo $i >/tmp/count; sleep 0.2; done) >/dev/null 2>&1 & true"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform() as running:
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def write(shell: Console, disk: str, word: str) -> None:
    shell.run(f"echo {word} | dd of=/dev/{disk} bs=512 conv=notrunc,fsync 2>/dev/null")


def booted(cloud: Platform, vm: str) -> Console:
    eventually(lambda: "NACRE-TINY ready" in cloud.log(vm), what="a booted guest")
    return Console(cloud, vm)


def kept(cloud: Platform, vm: str, name: str) -> Any:
    return cloud.get(f"/v1/vms/{vm}/checkpoints/{name}")


def test_a_machine_comes_back_with_its_disks_and_its_memory_and_gets_a_twin(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    body = {"name": "web", "image": "tiny", "memory_bytes": 128 * MIB, "disk_bytes": 16 * MIB}
    vm = done(cloud.post("/v1/vms", body, wait=WAIT))
    done(cloud.post("/v1/volumes", {"name": "data", "size_bytes": 16 * MIB}, wait=WAIT))
    done(cloud.post("/v1/vms/web/volumes", {"volume": "data"}, wait=WAIT))
    shell = booted(cloud, "web")
    shell.until("cat /proc/partitions", "vdb")
    write(shell, "vda", "early")
    write(shell, "vdb", "early")
    shell.run(COUNTING)
    shell.until("cat /tmp/count", "5")

    # Disks alone, then memory as well, while it runs.
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "disks", "protected": True}, wait=WAIT))
    found = kept(cloud, "web", "disks")
    assert (found["phase"], found["consistency"], found["size_bytes"]) == ("ready", "crash", 32 * MIB)
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "whole", "memory": True}, wait=WAIT))
    found = kept(cloud, "web", "whole")
    assert (found["phase"], found["consistency"], found["memory_bytes"] > MIB) == ("ready", "memory", True)
    counted = int(shell.run("cat /tmp/count"))
    write(shell, "vda", "after")
    write(shell, "vdb", "after")
    assert cloud.get("/v1/vms/web")["run"]["id"] == vm["run"]["id"]

    refused = cloud.request("POST", "/v1/vms/web/restore", json={"checkpoint": "whole"})
    assert (refused.status_code, refused.json()["code"]) == (409, "vm_running")
    again = done(cloud.post("/v1/vms/web/restore", {"checkpoint": "whole", "stop": True}, wait=WAIT))
    assert (again["phase"], again["run"]["id"] != vm["run"]["id"]) == ("running", True)
    shell.close()
    shell = Console(cloud, "web")
    assert int(shell.run("cat /tmp/count")) >= 5
    eventually(lambda: int(shell.run("cat /tmp/count")) > counted, what="a counter that goes on")
    assert ("early" in shell.run("head -c 6 /dev/vda"), "early" in shell.run("head -c 6 /dev/vdb")) == (True, True)
    assert cloud.log("web").count("NACRE-TINY ready") == 1

    # A twin of the disks, with everything of its own.
    twin = done(cloud.post("/v1/vms", {"name": "twin", "checkpoint": "web/disks"}, wait=WAIT))
    other = booted(cloud, "twin")
    assert "early" in other.run("head -c 6 /dev/vda")
    assert "early" in other.run("head -c 6 /dev/vdb")
    assert other.run("cat /sys/class/net/*/address") != shell.run("cat /sys/class/net/*/address")
    write(other, "vda", "twin")
    seed = (cloud.root / "agent-0" / "vms" / twin["id"] / "seed.iso").read_bytes()
    assert f"instance-id: {twin['id']}-{kept(cloud, 'web', 'disks')['id']}".encode() in seed
    assert b"local-hostname: twin" in seed
    assert b"ssh_deletekeys: true" in seed
    assert "early" in shell.run("head -c 6 /dev/vda")

    # The agent dies in the middle of all that; then only the disks go back, of a machine that is off.
    cloud.agent.kill()
    cloud.agent.start()
    shell.close()
    other.close()
    done(cloud.post("/v1/vms/web/stop", {"force": True}, wait=WAIT))
    done(cloud.post("/v1/vms/web/restore", {"checkpoint": "whole", "memory": False}, wait=WAIT))
    assert cloud.get("/v1/vms/web")["phase"] == "stopped"
    done(cloud.post("/v1/vms/web/start", wait=WAIT))
    eventually(lambda: cloud.log("web").count("NACRE-TINY ready") == 2, what="a guest that has started anew")
    shell = Console(cloud, "web")
    assert "early" in shell.run("head -c 6 /dev/vda")
    shell.close()

    refused = cloud.request("DELETE", "/v1/vms/web")
    assert refused.json()["code"] == "vm_has_protected_checkpoints"
    cloud.request("PATCH", "/v1/vms/web/checkpoints/disks", json={"protected": False})
    done(cloud.delete("/v1/vms/web/checkpoints/disks", wait=WAIT))
    assert [one["name"] for one in cloud.get("/v1/vms/web/checkpoints")["items"]] == ["whole"]
    cloud.delete("/v1/vms/web", wait=WAIT)
    other = Console(cloud, "twin")
    assert "twin" in other.run("head -c 6 /dev/vda")
    other.close()
    cloud.delete("/v1/vms/twin", wait=WAIT)
    for name in ("data", "twin-data"):
        done(cloud.delete(f"/v1/volumes/{name}", wait=WAIT))
    left = cloud.root / "agent-0" / "volumes"
    eventually(lambda: not list(left.iterdir()), what="an empty pool")
    records = cloud.root / "agent-0" / "volume-records"
    eventually(lambda: not list(records.iterdir()), what="no records")
    assert_as_it_was(cloud, before)

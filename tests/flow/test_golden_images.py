"""Golden images with real guests: what a machine wrote is what machines from the image find, wherever they are made."""

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


def write(shell: Console, word: str) -> None:
    shell.run(f"echo {word} | dd of=/dev/vda bs=512 seek=2048 conv=notrunc,fsync 2>/dev/null")


def read(shell: Console) -> str:
    return shell.run("dd if=/dev/vda bs=512 skip=2048 count=1 2>/dev/null | head -c 6")


def booted(cloud: Platform, vm: str) -> Console:
    eventually(lambda: "NACRE-TINY ready" in cloud.log(vm), what="a booted guest")
    return Console(cloud, vm)


def nothing_on_the_way(cloud: Platform) -> None:
    folder = cloud.root / "agent-0" / "exports"
    eventually(lambda: not list(folder.iterdir()), what="no copies of disks")


def test_a_template_has_what_was_on_the_disk_of_a_machine(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    body = {"name": "web", "image": "tiny", "memory_bytes": 128 * MIB, "disk_bytes": 16 * MIB}
    done(cloud.post("/v1/vms", body, wait=WAIT))
    shell = booted(cloud, "web")
    write(shell, "golden")
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "early"}, wait=WAIT))
    write(shell, "later!")

    image = done(cloud.post("/v1/images", {"name": "golden", "checkpoint": "web/early"}, wait=WAIT))
    assert (image["state"], image["visibility"]) == ("ready", "private")
    found = {one["role"]: one for one in image["artifacts"]}
    assert sorted(found) == ["disk", "initrd", "kernel"]
    assert (found["disk"]["format"], found["disk"]["virtual_size_bytes"]) == ("qcow2", 16 * MIB)
    assert image["kernel_args"] == cloud.get("/v1/images/tiny")["kernel_args"]
    nothing_on_the_way(cloud)
    assert "later!" in read(shell)

    # The origin and its checkpoint may go: the image needs neither.
    shell.close()
    cloud.delete("/v1/vms/web", wait=WAIT)
    assert cloud.get("/v1/images/golden")["captured"]["vm_name"] == "web"
    cloud.post("/v1/templates", {"name": "shop", "config": {"image": "golden", "memory_bytes": 128 * MIB}})
    pair = cloud.post("/v1/vms", {"name": "shop-{n}", "template": "shop", "count": 2}, wait=WAIT)
    for one in (pair, *pair["more"]):
        vm = done(one)
        other = booted(cloud, vm["name"])
        assert "golden" in read(other)
        write(other, "mine!!")
        other.close()
        seed = (cloud.root / "agent-0" / "vms" / vm["id"] / "seed.iso").read_bytes()
        assert f"instance-id: {vm['id']}-{image['captured']['checkpoint']}".encode() in seed
        assert b"ssh_deletekeys: true" in seed

    for name in ("shop-1", "shop-2"):
        cloud.delete(f"/v1/vms/{name}", wait=WAIT)
    assert cloud.request("DELETE", "/v1/templates/shop").status_code == 204
    cloud.delete("/v1/images/golden", wait=WAIT)
    assert_as_it_was(cloud, before)


def test_an_agent_that_dies_while_a_disk_is_made_into_an_image_goes_on_when_it_is_back(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    body = {"name": "big", "image": "tiny", "memory_bytes": 128 * MIB, "disk_bytes": 256 * MIB}
    done(cloud.post("/v1/vms", body, wait=WAIT))
    shell = booted(cloud, "big")
    write(shell, "golden")
    shell.run("dd if=/dev/urandom of=/dev/vda bs=1M seek=2 count=24 conv=notrunc,fsync 2>/dev/null")
    shell.close()
    done(cloud.post("/v1/vms/big/checkpoints", {"name": "early"}, wait=WAIT))
    cloud.post("/v1/images", {"name": "golden", "checkpoint": "big/early"})
    refused = cloud.request("DELETE", "/v1/vms/big/checkpoints/early")
    assert (refused.status_code, refused.json()["code"]) == (409, "checkpoint_in_use")
    cloud.agent.kill()
    cloud.agent.start()
    eventually(lambda: cloud.get("/v1/images/golden")["state"] == "ready", timeout=WAIT, what="an image that is ready")
    vm = done(cloud.post("/v1/vms", {"name": "copy", "image": "golden", "memory_bytes": 128 * MIB}, wait=WAIT))
    shell = booted(cloud, "copy")
    assert "golden" in read(shell)
    shell.close()
    nothing_on_the_way(cloud)
    for name in (vm["name"], "big"):
        cloud.delete(f"/v1/vms/{name}", wait=WAIT)
    cloud.delete("/v1/images/golden", wait=WAIT)
    assert_as_it_was(cloud, before)

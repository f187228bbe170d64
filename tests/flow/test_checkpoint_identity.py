"""A real guest with cloud-init and an agent, and its twin: file systems at rest, and everything of its own."""

from collections.abc import Iterator
from typing import Any

import pytest

from support.debian import KERNEL_ARGS, debian, hindrance
from support.platform import Platform, eventually, platform

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(hindrance() != "", reason=hindrance() or "-"),
]

ID = "0123456789abcdef0123456789abcdef"
KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
MAKE = f"echo {ID} >/etc/machine-id; echo shared >/root/shared; sync"
IDENTITY = f"cat /etc/machine-id /proc/sys/kernel/hostname /sys/class/net/eth0/address; cut -d ' ' -f 2 {KEY}"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    image = debian()
    with platform() as running:
        files = {"kernel": image.kernel, "initrd": image.initrd, "disk": image.disk}
        running.import_image("debian", files, kernel_args=KERNEL_ARGS)
        body = {"name": "web", "image": "debian", "memory_bytes": 256 << 20, "cloud_init": {"hostname": "web"}}
        running.post("/v1/vms", body, wait=120)
        ready(running, "web")
        yield running


def ready(cloud: Platform, vm: str) -> None:
    eventually(lambda: "DEBIAN ready" in cloud.log(vm), timeout=500, what="a guest that is set up")
    eventually(lambda: (cloud.vm(vm)["guest"] or {}).get("hostname") == vm, timeout=200, what="its agent")


def said(cloud: Platform, vm: str, command: str) -> str:
    body = {"command": ["sh", "-c", command], "timeout_s": 120}
    return str(cloud.post(f"/v1/vms/{vm}/exec", body)["stdout"])


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def test_a_twin_shares_the_disk_and_nothing_of_who_its_origin_is(cloud: Platform) -> None:
    said(cloud, "web", MAKE)
    mine = said(cloud, "web", IDENTITY).splitlines()
    assert (mine[0], mine[1], len(mine)) == (ID, "web", 4)
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "early"}, wait=200))
    assert cloud.get("/v1/vms/web/checkpoints/early")["consistency"] == "filesystem"
    done(cloud.post("/v1/vms", {"name": "twin", "checkpoint": "web/early"}, wait=200))
    ready(cloud, "twin")
    assert said(cloud, "twin", "cat /root/shared").strip() == "shared"
    twin = said(cloud, "twin", IDENTITY).splitlines()
    assert (len(twin), len(twin[0]), twin[1]) == (4, 32, "twin")
    assert [one for one in twin if one in mine] == []
    assert said(cloud, "web", IDENTITY).splitlines() == mine

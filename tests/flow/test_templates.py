"""Real guests made from a template: with a type and an override, from a machine that runs, and two in one request."""

from collections.abc import Iterator

import httpx2
import pytest

from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, free_port, platform

pytestmark = pytest.mark.host

MIB = 1 << 20


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform() as running:
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running


def test_a_guest_boots_with_what_template_type_and_request_say(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    port = free_port()
    config = {
        "image": "tiny",
        "cpus": 2,
        "memory_bytes": 512 * MIB,
        "kernel_args": "loglevel=7 nacre.from=template",
        "publish": [{"host_port": port, "guest_port": 80}],
        "labels": {"app": "shop"},
    }
    cloud.post("/v1/templates", {"name": "shop", "config": config})
    cloud.post("/v1/instance-types", {"name": "small", "config": {"cpus": 1, "memory_bytes": 192 * MIB}})
    body = {"name": "web", "template": "shop", "instance_type": "small", "memory_bytes": 128 * MIB}
    accepted = cloud.post("/v1/vms", body, wait=60)
    assert accepted["operation"]["state"] == "succeeded"
    web = accepted["resource"]
    assert (web["run"]["cpus"], web["run"]["memory_bytes"], web["labels"]) == (1, 128 * MIB, {"app": "shop"})
    assert (web["template"]["revision"], web["instance_type"]["name"]) == (1, "small")
    page = eventually(lambda: httpx2.get(f"http://127.0.0.1:{port}/", timeout=2).text, what="a page from the guest")
    assert "hello" in page.lower()
    assert "nacre.from=template" in cloud.log("web"), "the kernel tells its command line"

    cloud.request("PATCH", "/v1/templates/shop", json={"config": {"kernel_args": "nacre.from=revision2"}})
    assert cloud.vm("web")["spec"]["kernel_args"] == "loglevel=7 nacre.from=template"
    cloud.post("/v1/templates", {"name": "like-web", "from_vm": "web", "config": {"publish": []}})
    pair = cloud.post("/v1/vms", {"name": "more-{n}", "template": "like-web", "count": 2}, wait=60)
    made = [pair, *pair["more"]]
    assert [one["resource"]["phase"] for one in made] == ["running", "running"]
    for name in ("more-1", "more-2"):
        eventually(lambda name=name: "NACRE-TINY ready" in cloud.log(name), what=f"{name} booted")
        assert "nacre.from=template" in cloud.log(name)
        assert cloud.vm(name)["run"]["memory_bytes"] == 128 * MIB

    for template in ("shop", "like-web"):
        assert cloud.request("DELETE", f"/v1/templates/{template}").status_code == 204
    assert cloud.vm("web")["phase"] == "running"
    for name in ("web", "more-1", "more-2"):
        cloud.delete(f"/v1/vms/{name}", wait=60)
    assert cloud.request("DELETE", "/v1/instance-types/small").status_code == 204
    assert_as_it_was(cloud, before)

"""Two replicas of the control plane on one PostgreSQL; one of them is killed."""

import asyncio
import tomllib
from pathlib import Path

import pytest

from support.guests import tiny_image
from support.platform import eventually, platform
from support.postgres import Cluster

pytestmark = [pytest.mark.host, pytest.mark.anyio]


async def test_a_killed_replica_costs_nothing_but_its_own_connections(
    anyio_backend: str, postgres_cluster: Cluster
) -> None:
    name = await postgres_cluster.create()
    await asyncio.to_thread(kill_one_of_two, postgres_cluster.url(name))
    await postgres_cluster.drop(name)


def kill_one_of_two(url: str) -> None:
    with platform(database=url) as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        first = cloud.url
        cloud.add_control()
        cloud.post("/v1/vms", {"name": "a", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
        (pid,) = cloud.guest_pids()
        cloud.control.kill()
        cloud.url = url_of(cloud.controls[1].argv)
        assert cloud.url != first
        assert cloud.vm("a")["desired"] == "running"
        assert cloud.guest_pids() == [pid]
        cloud.control.start()
        eventually(lambda: cloud.get("/v1/nodes")["items"][0]["state"] == "ready", what="the node is back")
        stopped = cloud.post("/v1/vms/a/stop", {"force": True}, wait=60)["resource"]
        assert stopped["phase"] == "stopped"
        cloud.delete("/v1/vms/a", wait=60)


def url_of(argv: list[str]) -> str:
    """The address that a replica's configuration names."""

    return "http://" + tomllib.loads(Path(argv[-1]).read_text())["listen"]

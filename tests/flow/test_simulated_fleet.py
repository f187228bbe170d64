"""Nodes that are not there, and a control plane that is: they join, run machines, go missing and come back."""

import os
import signal
import time
from typing import Any

import httpx2
import pytest

from bench.fleet import metric
from support.guests import tiny_image
from support.platform import Platform, eventually, platform
from support.simulation import Fleet

pytestmark = pytest.mark.host

NODES, MACHINES, LOST = 200, 400, 20


def nodes(cloud: Platform) -> dict[str, str]:
    """The state of every node."""
    return {node["id"]: node["state"] for node in every(cloud, "/v1/nodes")}


def phases(cloud: Platform) -> dict[str, str]:
    """The phase of every machine."""
    return {vm["name"]: vm["phase"] for vm in every(cloud, "/v1/vms")}


def every(cloud: Platform, path: str) -> list[Any]:
    """All pages of a list."""
    items: list[Any] = []
    after: dict[str, str] = {}
    while True:
        page = cloud.get(path, limit=500, **after)
        items += page["items"]
        if not page.get("next"):
            return items
        after = {"cursor": page["next"]}


def test_two_hundred_nodes_run_four_hundred_machines_and_lose_some() -> None:
    with platform(agents=0, heartbeat_s=1, offline_after_s=4, log_level="warning") as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        fleet = Fleet(cloud, NODES, simulate_boot_s=0.2, simulate_zones=["eu/a", "eu/b"])
        fleet.wait()
        with httpx2.Client(base_url=cloud.url, headers={"Authorization": f"Bearer {cloud.token}"}, timeout=60) as api:
            for index in range(MACHINES):
                answer = api.post("/v1/vms", json={"name": f"vm-{index}", "image": "tiny", "memory_bytes": 64 << 20})
                assert answer.status_code == 202, answer.text
        eventually(lambda: set(phases(cloud).values()) == {"running"}, timeout=60, what="all machines run")
        assert fleet.order("status")["machines"] == MACHINES

        lost = {node["id"] for node in fleet.order(f"silence {LOST}")["nodes"]}
        eventually(
            lambda: {node for node, state in nodes(cloud).items() if state == "offline"} == lost,
            timeout=30,
            what="the lost nodes are offline, and no others",
        )
        fleet.order("resume")
        eventually(lambda: set(nodes(cloud).values()) == {"ready"}, timeout=30, what="all nodes are back")
        eventually(lambda: set(phases(cloud).values()) == {"running"}, timeout=60, what="all machines run again")
        assert fleet.order("status")["machines"] == MACHINES


def test_a_control_plane_that_stood_still_takes_no_node_for_lost() -> None:
    with platform(agents=0, heartbeat_s=0.5, offline_after_s=2, log_level="warning") as cloud:
        fleet = Fleet(cloud, 30)
        fleet.wait()
        eventually(lambda: set(nodes(cloud).values()) == {"ready"}, what="all nodes are ready")
        for seconds in (3, 12):
            os.kill(cloud.control.pid, signal.SIGSTOP)
            time.sleep(seconds)
            os.kill(cloud.control.pid, signal.SIGCONT)
            eventually(lambda: metric(cloud, "nacre_linked_nodes") == 30, what="all links are there")
            time.sleep(4)  # twice as long as a node may be silent
            assert cloud.get("/v1/events", type="node.offline")["items"] == []
        silent = {node["id"] for node in fleet.order("silence 3")["nodes"]}
        eventually(lambda: {n for n, state in nodes(cloud).items() if state == "offline"} == silent, what="those lost")


def test_machines_of_lost_nodes_run_elsewhere_and_nowhere_twice() -> None:
    with platform(agents=0, heartbeat_s=1, offline_after_s=4, lease_s=10, log_level="warning") as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        fleet = Fleet(cloud, 20, simulate_boot_s=0.2)
        fleet.wait()
        for index in range(20):
            body = {"name": f"vm-{index}", "image": "tiny", "memory_bytes": 64 << 20, "ha": "restart"}
            cloud.post("/v1/vms", body)
        eventually(lambda: set(phases(cloud).values()) == {"running"}, timeout=60, what="all machines run")
        lost = {node["id"] for node in fleet.order("silence 4")["nodes"]}
        eventually(
            lambda: all(vm["phase"] == "running" and vm["node"]["id"] not in lost for vm in every(cloud, "/v1/vms")),
            timeout=90,
            what="all machines run, on nodes that are there",
        )
        fleet.order("resume")
        eventually(lambda: set(nodes(cloud).values()) == {"ready"}, timeout=30, what="all nodes are back")
        eventually(lambda: fleet.order("status")["machines"] == 20, timeout=30, what="no machine runs twice")

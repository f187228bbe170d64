"""A node of real processes is emptied: half way, again, and while a target dies. Guests are the fake driver's."""

import contextlib
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nacre.agent.settings import Settings
from support.images import kernel
from support.platform import Platform, eventually, platform

pytestmark = pytest.mark.host

MACHINES = 20
FAKE = {"NACRE_AGENT_HYPERVISORS": "fake"}


@contextlib.contextmanager
def fleet(agents: int) -> Iterator[Platform]:
    """A control plane that soon misses a silent node, agents with the fake driver, and an image."""
    with platform(agents=agents, agent_env=FAKE, heartbeat_s=0.5, offline_after_s=3.0) as cloud:
        policy = {"cpu_overcommit": 64, "disk_headroom": 0}  # all nodes are this one host
        assert cloud.request("PATCH", "/v1/scheduler", json=policy).status_code == 200
        (cloud.root / "kernel").write_bytes(kernel())
        cloud.import_image("tiny", {"kernel": cloud.root / "kernel"})
        try:
            yield cloud
        finally:
            for agent in cloud.agents:
                agent.kill()
            for pid in guests(cloud):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for agent in cloud.agents:
                shutil.rmtree(Settings(data_dir=str(cloud.root / agent.name)).run, ignore_errors=True)


def guests(cloud: Platform) -> list[int]:
    """Every process of the fake driver that an agent of this platform has started."""
    runs = [str(Settings(data_dir=str(cloud.root / agent.name)).run).encode() for agent in cloud.agents]
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                command = (entry / "cmdline").read_bytes()
                if b"fake_guest.py" in command and any(run in command for run in runs):
                    found.append(int(entry.name))
    return found


def fill(cloud: Platform, count: int) -> None:
    """`count` machines on node-0, which alone takes some at first."""
    others = [node["name"] for node in cloud.get("/v1/nodes")["items"] if node["name"] != "node-0"]
    for name in others:
        cloud.post(f"/v1/nodes/{name}/cordon")
    for index in range(count):
        body = {"name": f"vm-{index}", "image": "tiny", "hypervisor": "fake", "memory_bytes": 64 << 20}
        cloud.post("/v1/vms", body)
    eventually(lambda: running(cloud) == {"node-0": count}, timeout=90, what="all run on node-0")
    for name in others:
        cloud.post(f"/v1/nodes/{name}/uncordon")


def running(cloud: Platform) -> dict[str, int]:
    """How many machines run on each node."""
    found: dict[str, int] = {}
    for vm in cloud.get("/v1/vms", limit=1000)["items"]:
        if vm["phase"] == "running" and vm["conditions"]["converged"]:
            found[vm["node"]["name"]] = found.get(vm["node"]["name"], 0) + 1
    return found


def drain_of(cloud: Platform, node: str = "node-0") -> Any:
    return cloud.get(f"/v1/nodes/{node}")["drain"]


@pytest.mark.timeout(240)
def test_a_drain_of_twenty_machines_is_aborted_half_way_and_repeated() -> None:
    with fleet(2) as cloud:
        fill(cloud, MACHINES)
        cloud.post("/v1/nodes/node-0/drain", {"parallel": 3})
        eventually(lambda: drain_of(cloud)["moved"] >= 6, timeout=60, what="half way")
        stopped = cloud.post("/v1/nodes/node-0/abort-drain")
        assert (stopped["state"], stopped["drain"]["state"]) == ("ready", "aborted")
        eventually(lambda: sum(running(cloud).values()) == MACHINES, timeout=60, what="all run again")
        half = running(cloud)
        assert half["node-0"] > 0
        assert half["node-1"] >= 6

        cloud.post("/v1/nodes/node-0/drain", {"parallel": 6})
        ended = eventually(lambda: (d := drain_of(cloud))["ended_at"] and d, timeout=90, what="the drain ends")
        assert (ended["state"], ended["machines"], ended["moved"]) == ("done", half["node-0"], half["node-0"])
        assert cloud.get("/v1/nodes/node-0")["state"] == "cordoned"
        eventually(lambda: running(cloud) == {"node-1": MACHINES}, timeout=30, what="all run on node-1")
        eventually(lambda: len(guests(cloud)) == MACHINES, what="one process each")


@pytest.mark.timeout(240)
def test_a_target_that_dies_half_way_is_told_of_and_the_drain_goes_on() -> None:
    with fleet(3) as cloud:
        fill(cloud, MACHINES)
        cloud.post("/v1/nodes/node-0/drain", {"parallel": 4})
        eventually(lambda: drain_of(cloud)["moved"] >= 4, timeout=60, what="half way")
        cloud.agents[2].kill()
        ended = eventually(lambda: (d := drain_of(cloud))["ended_at"] and d, timeout=120, what="the drain ends")
        assert ended["state"] == "done", ended
        moves = cloud.get("/v1/moves", drain=ended["id"], limit=1000)["items"]
        assert len(moves) == MACHINES
        for move in moves:
            if move["state"] == "failed":
                assert move["target"]["name"] == "node-2"
                assert "node-2 is offline" in move["message"]
            else:
                assert move["state"] == "done"
        left = [vm for vm in cloud.get("/v1/vms", limit=1000)["items"] if vm["node"]["name"] == "node-0"]
        assert left == []
        cloud.agents[2].start()
        eventually(lambda: sum(running(cloud).values()) == MACHINES, timeout=60, what="all run in the end")

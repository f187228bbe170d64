"""Three nodes that are hosts of their own: joining, placing, and outages of the control plane that move nothing.

With default settings. Times are printed; limits are about what Nacre promises, with room for a busy machine.
"""

import signal
import time
from collections.abc import Iterator

import pytest

from support import netns
from support.multihost import PATIENCE_S, Fleet, fleet
from support.platform import eventually
from support.witness import doubles, gaps

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(600),
    pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-"),
]

OUTAGE_S = 30.0
STARTING_S = 4.0
"""Within which a control plane that was killed is there again after its start."""
HOMES = {"safe-1": "n1", "safe-2": "n2", "safe-3": "n3", "plain-3": "n3"}
"""Machines and where they are. The safe ones are restarted elsewhere if their node is lost."""
HICCUP_S = 10.0
"""A silence of a guest that a busy machine may cause."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Fleet]:
    with netns.lab() as lab, fleet(lab) as running:
        for name, node in HOMES.items():
            running.create(name, on=node, ha=name.startswith("safe"))
        for name in HOMES:
            running.boot_of(name)
        yield running


def on(node: str) -> set[str]:
    """The machines of a node."""
    return {name for name, home in HOMES.items() if home == node}


def test_nodes_join_and_are_listed_with_what_they_run(cloud: Fleet) -> None:
    nodes = {node["name"]: node for node in cloud.get("/v1/nodes")["items"]}
    assert set(nodes) == set(cloud.nodes)
    for name, node in nodes.items():
        assert node["state"] == "ready"
        assert node["vms"] == len(on(name))
        assert node["reserved_memory_bytes"] == sum(
            vm["spec"]["memory_bytes"] for vm in cloud.get("/v1/vms", node=name)["items"]
        )
        assert {vm["name"] for vm in cloud.get("/v1/vms", node=name)["items"]} == on(name)
        assert len(cloud.nodes[name].guests()) == len(on(name))


def test_machines_that_want_to_be_apart_are_on_different_nodes_and_one_too_many_is_told_why(cloud: Fleet) -> None:
    apart = {"anti_affinity": [{"labels": {"app": "db"}}]}
    names = [f"db-{index}" for index in range(4)]
    for name in names:
        cloud.create(name, labels={"app": "db"}, placement=apart)
    homes = [cloud.placed(name) for name in names[:3]]
    assert sorted(homes) == sorted(cloud.nodes)
    failure = eventually(lambda: cloud.vm(names[3])["conditions"]["degraded"], what="a reason")
    assert cloud.where(names[3]) == ""
    assert "3" in failure["message"], failure
    for name in names:
        cloud.delete(f"/v1/vms/{name}", wait=60)


def test_machines_are_spread_over_the_nodes(cloud: Fleet) -> None:
    spread = {"spread": [{"labels": {"app": "web"}, "topology": "node", "required": True}]}
    names = [f"web-{index}" for index in range(3)]
    for name in names:
        cloud.create(name, labels={"app": "web"}, placement=spread)
    homes = [cloud.placed(name) for name in names]
    assert sorted(homes) == sorted(cloud.nodes)
    for name in names:
        cloud.delete(f"/v1/vms/{name}", wait=60)


@pytest.mark.parametrize("how", ["cut", "killed"])
def test_an_outage_of_the_control_plane_moves_nothing_and_interrupts_nothing(cloud: Fleet, how: str) -> None:
    before = {name: (cloud.where(name), cloud.boot_of(name)) for name in HOMES}
    began = time.monotonic()
    host = cloud.lab.hosts["c0"]
    if how == "cut":
        host.cut("control")
    else:
        cloud.control.kill()
    time.sleep(OUTAGE_S if how == "cut" else OUTAGE_S - STARTING_S)
    assert cloud.nodes["n1"].agent.alive()
    if how == "cut":
        host.heal()
    else:
        cloud.control.start()
        eventually(lambda: cloud.is_up(0), timeout=60, what="the control plane is back")
    back = time.monotonic()
    print(f"{how}: out for {back - began:.1f} s")
    cloud.all_ready(timeout=PATIENCE_S)
    print(f"{how}: every node is ready again {time.monotonic() - back:.1f} s after the end")
    # A while longer, in which a late loss of nerves would be seen.
    eventually(lambda: time.monotonic() > back + 8, timeout=20)
    for name in HOMES:
        assert (cloud.where(name), cloud.boot_of(name)) == before[name], name
        silences = [
            (start, end) for start, end in gaps(cloud.recorder.claims, name, longer_than=HICCUP_S) if end > began
        ]
        assert silences == [], name
    assert doubles(cloud.recorder.claims) == []


def test_an_agent_that_stands_still_for_a_minute_loses_its_safe_machine_and_nothing_runs_twice(cloud: Fleet) -> None:
    node = cloud.nodes["n3"]
    plain, safe = cloud.boot_of("plain-3"), cloud.boot_of("safe-3")
    began = time.monotonic()
    node.signal(signal.SIGSTOP)
    moved = cloud.boot_of("safe-3", other_than=safe)
    first = cloud.recorder.first_since("safe-3", began, not_boot=safe)
    assert first is not None
    print(f"the successor was first heard {first.at - began:.1f} s after the agent was stopped")
    assert cloud.where("safe-3") != "n3"
    eventually(lambda: time.monotonic() > began + 60, timeout=70)
    node.signal(signal.SIGCONT)
    cloud.all_ready(timeout=PATIENCE_S)
    eventually(lambda: len(node.guests()) == 1, timeout=PATIENCE_S, what="the old copy is gone from n3")
    assert cloud.recorder.is_heard("plain-3", within=HICCUP_S)
    assert cloud.recorder.boots("plain-3") == [plain]
    assert cloud.recorder.boots("safe-3") == [safe, moved]
    assert doubles(cloud.recorder.claims) == []

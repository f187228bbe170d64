"""Nodes are emptied while their guests run: every machine moves once, and a drain can be taken back half way."""

from collections.abc import Iterator
from typing import Any

import pytest

from support import netns
from support.multihost import PATIENCE_S, SHORT, Fleet, fleet
from support.platform import eventually
from support.witness import doubles

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(600),
    pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-"),
]

NAMES = {"one": True, "two": False, "three": True}
"""Machines on the node, and which are restarted elsewhere if it is lost."""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Fleet]:
    with netns.lab() as lab, fleet(lab, **SHORT) as running:
        with running.only("n1"):
            for name, ha in NAMES.items():
                running.create(name, ha=ha)
            for name in NAMES:
                running.placed(name)
        for name in NAMES:
            running.boot_of(name)
        yield running


def drain_of(cloud: Fleet, node: str) -> Any:
    return cloud.get(f"/v1/nodes/{node}")["drain"]


def ended(cloud: Fleet, node: str) -> Any:
    """Wait until the drain of a node has ended; the drain."""
    return eventually(
        lambda: (drain := drain_of(cloud, node))["ended_at"] and drain,
        timeout=3 * PATIENCE_S,
        what="the end of a drain",
    )


def test_a_drain_can_be_taken_back_half_way_and_repeated(cloud: Fleet) -> None:
    before = {name: cloud.boot_of(name) for name in NAMES}
    cloud.post("/v1/nodes/n1/drain", {"parallel": 1, "method": "restart"})
    eventually(lambda: drain_of(cloud, "n1")["moved"] >= 1, timeout=PATIENCE_S, what="one machine has moved")
    cloud.post("/v1/nodes/n1/abort-drain")
    assert ended(cloud, "n1")["state"] == "aborted"
    eventually(
        lambda: all(cloud.vm(name)["conditions"]["converged"] for name in NAMES), timeout=PATIENCE_S, what="settled"
    )
    stayed = [name for name in NAMES if cloud.where(name) == "n1"]
    assert 1 <= len(stayed) < len(NAMES)
    assert cloud.states()["n1"] == "ready"
    for name in NAMES:
        cloud.boot_of(name)
    # A machine that was asked to stop just before is started again where it was; the others were not touched.
    assert sum(cloud.recorder.boots(name) != [before[name]] for name in stayed) <= 1

    cloud.post("/v1/nodes/n1/drain", {"parallel": 4, "method": "restart"})
    drain = ended(cloud, "n1")
    assert (drain["state"], drain["failed"], drain["moved"]) == ("done", 0, len(stayed)), drain
    assert cloud.states()["n1"] == "cordoned"
    for name in NAMES:
        assert cloud.where(name) in {"n2", "n3"}
        cloud.boot_of(name)
        assert len(cloud.recorder.boots(name)) <= 3
    eventually(lambda: cloud.nodes["n1"].guests() == {}, what="nothing runs on the drained node")
    assert {copy["vm"]["name"] for copy in cloud.get("/v1/nodes/n1/copies")["items"]} == set(NAMES)
    assert doubles(cloud.recorder.claims) == []


def test_a_machine_is_moved_where_a_user_says_and_what_it_left_behind_is_discarded(cloud: Fleet) -> None:
    cloud.create("mover", on="n2")
    boot = cloud.boot_of("mover")
    move = cloud.post("/v1/vms/mover/move", {"to": "n3", "method": "restart"})
    move = eventually(
        lambda: (now := cloud.get(f"/v1/moves/{move['id']}"))["ended_at"] and now, timeout=PATIENCE_S, what="moved"
    )
    assert (move["state"], move["target"]["name"]) == ("done", "n3"), move
    cloud.boot_of("mover", other_than=boot)
    assert cloud.where("mover") == "n3"
    assert doubles(cloud.recorder.claims) == []

    left = cloud.nodes["n2"].data / "copies"
    eventually(lambda: any(left.glob("vm-*")), timeout=PATIENCE_S, what="the old disks are kept")
    cloud.delete("/v1/nodes/n2/copies")
    eventually(lambda: cloud.get("/v1/nodes/n2/copies")["items"] == [], timeout=PATIENCE_S, what="no copies on record")
    eventually(lambda: not any(left.glob("vm-*")), timeout=PATIENCE_S, what="no copies on the node")

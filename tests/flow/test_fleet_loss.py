"""A node is lost, by its power or by its link: what is to be restarted runs elsewhere, and never twice.

With short leases. The witness hears guests over a network of its own, so it would see a guest that runs on behind a
partition.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import netns
from support.multihost import PATIENCE_S, SHORT, Fleet, Node, fleet
from support.platform import eventually
from support.witness import doubles, gaps, lives

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(600),
    pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-"),
]

HICCUP_S = 10.0


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with netns.lab() as lab, fleet(lab, **SHORT) as made:
        yield made


@pytest.fixture
def cloud(running: Fleet) -> Iterator[Fleet]:
    yield running
    for node in running.nodes.values():
        node.host.heal()
        if not node.on:
            node.power_on()
    running.all_ready(timeout=PATIENCE_S)
    for vm in running.get("/v1/vms")["items"]:
        running.delete(f"/v1/vms/{vm['name']}", wait=60)


def files(node: Node, folder: str, vm: str) -> list[Path]:
    """What a node has of a machine in one of its folders."""
    return sorted((node.data / folder).glob(f"{vm}*"))


def test_a_node_without_power_loses_its_safe_machines_to_others_and_keeps_their_disks(cloud: Fleet) -> None:
    node = cloud.nodes["n1"]
    cloud.create("safe", on="n1", ha=True)
    cloud.create("plain", on="n1")
    safe, plain = cloud.boot_of("safe"), cloud.boot_of("plain")
    vm = cloud.vm("safe")["id"]

    began = time.monotonic()
    node.power_off()
    second = cloud.boot_of("safe", other_than=safe)
    first = cloud.recorder.first_since("safe", began, not_boot=safe)
    assert first is not None
    print(f"safe was heard again {first.at - began:.1f} s after the power-off")
    home = cloud.where("safe")
    assert home in {"n2", "n3"}
    eventually(lambda: cloud.vm("safe")["phase"] == "running", what="running elsewhere")
    assert cloud.states()["n1"] in {"offline", "failed"}
    assert cloud.where("plain") == "n1"
    assert cloud.recorder.boots("plain") == [plain]

    node.power_on()
    cloud.all_ready(timeout=PATIENCE_S)
    eventually(lambda: files(node, "copies", vm), timeout=PATIENCE_S, what="its disks are set aside")
    assert files(node, "vms", vm) == []
    assert any(path.is_file() and path.stat().st_size for copy in files(node, "copies", vm) for path in copy.rglob("*"))
    cloud.boot_of("plain", other_than=plain)
    assert cloud.where("plain") == "n1"
    assert vm not in node.guests()
    assert len(cloud.nodes[home].guests()[vm]) == 1
    assert cloud.recorder.boots("safe") == [safe, second]
    assert cloud.recorder.is_heard("safe", within=HICCUP_S)
    assert doubles(cloud.recorder.claims) == []


def test_behind_a_partition_a_safe_machine_is_frozen_before_its_successor_runs(cloud: Fleet) -> None:
    node = cloud.nodes["n2"]
    cloud.create("torn", on="n2", ha=True)
    cloud.create("calm", on="n2")
    torn, calm = cloud.boot_of("torn"), cloud.boot_of("calm")
    vm = cloud.vm("torn")["id"]
    (pid,) = node.guests()[vm]

    began = time.monotonic()
    node.host.cut("control")
    eventually(lambda: state_of(pid) in "TX", timeout=PATIENCE_S, what="the guest is frozen")
    frozen = time.monotonic()
    second = cloud.boot_of("torn", other_than=torn)
    before, after = lives(cloud.recorder.claims)["torn"]
    print(
        f"frozen {frozen - began:.1f} s after the cut; last heard {before.last - began:.1f} s, "
        f"its successor {after.first - began:.1f} s after the cut"
    )
    assert before.last < after.first
    assert after.first - before.last > 1.0
    assert cloud.where("torn") in {"n1", "n3"}
    assert cloud.recorder.boots("calm") == [calm]

    node.host.heal()
    cloud.all_ready(timeout=PATIENCE_S)
    eventually(lambda: vm not in node.guests(), timeout=PATIENCE_S, what="the frozen guest is gone")
    eventually(lambda: files(node, "copies", vm), timeout=PATIENCE_S, what="its disks are set aside")
    assert files(node, "vms", vm) == []
    assert cloud.recorder.boots("torn") == [torn, second]
    assert cloud.recorder.boots("calm") == [calm]
    assert [gap for gap in gaps(cloud.recorder.claims, "calm", longer_than=HICCUP_S) if gap[1] > began] == []
    assert doubles(cloud.recorder.claims) == []


def test_an_outage_longer_than_the_lease_freezes_safe_machines_and_lets_them_run_on(cloud: Fleet) -> None:
    for name in cloud.nodes:
        cloud.create(f"on-{name}", on=name, ha=True)
    before = {f"on-{name}": (name, cloud.boot_of(f"on-{name}")) for name in cloud.nodes}
    pids = [pid for node in cloud.nodes.values() for found in node.guests().values() for pid in found]
    assert len(pids) == len(before)
    cloud.lab.hosts["c0"].cut("control")
    eventually(lambda: all(state_of(pid) == "T" for pid in pids), timeout=PATIENCE_S, what="every guest is frozen")
    cloud.lab.hosts["c0"].heal()
    eventually(lambda: all(state_of(pid) in "SR" for pid in pids), timeout=PATIENCE_S, what="every guest is thawed")
    for name, (home, boot) in before.items():
        eventually(lambda name=name: cloud.recorder.is_heard(name), timeout=PATIENCE_S, what=f"{name} is heard")
        assert cloud.recorder.boots(name) == [boot]
        assert cloud.where(name) == home


def state_of(pid: int) -> str:
    """What a process is doing, in the kernel's letter; X when it is no more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"

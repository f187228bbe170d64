"""Machines go from node to node while they run, two real agents and real QEMU between them, and trouble on the way.

The witness hears every guest five times a second: the boot id tells whether it is still the same guest, and no two may
claim one name at a time. Whatever breaks, the machine runs on, where it was or where it went.
"""

import itertools
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import netns
from support.multihost import PATIENCE_S, Fleet, fleet
from support.platform import eventually
from support.thorough import seeds
from support.witness import doubles

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-"),
]
SLOW = 8 << 20
"""Bytes per second: a guest takes long enough to be troubled on its way."""
DISK = 64 << 20


@pytest.fixture(scope="module")
def cloud() -> Iterator[Fleet]:
    with netns.lab() as lab:
        lab.root.chmod(0o711)  # or machines could not have users of their own, who must reach their files
        with fleet(lab, nodes=2) as running:
            yield running


@pytest.fixture(autouse=True)
def room(cloud: Fleet) -> Iterator[None]:
    """What a test has made is gone after it: two small nodes have no room for the machines of all."""
    yield
    for vm in cloud.everything("/v1/vms"):
        cloud.delete(f"/v1/vms/{vm['id']}")
    eventually(lambda: not cloud.everything("/v1/vms"), timeout=PATIENCE_S, what="no machines")


def other(node: str) -> str:
    return "n2" if node == "n1" else "n1"


def begin(cloud: Fleet, name: str, **fields: Any) -> Any:
    return cloud.post(f"/v1/vms/{name}/move", {"method": "live", **fields})


def now(cloud: Fleet, move: Any) -> Any:
    return cloud.get(f"/v1/moves/{move['id']}")


def ended(cloud: Fleet, move: Any) -> Any:
    return eventually(
        lambda: (found := now(cloud, move))["ended_at"] and found, timeout=2 * PATIENCE_S, what="the end of a move"
    )


def copying(cloud: Fleet, move: Any) -> None:
    eventually(
        lambda: (live := now(cloud, move)["live"]) and live["transferred_bytes"] > 0,
        timeout=PATIENCE_S,
        what="some of it has been copied",
    )


def delays(cloud: Fleet, name: str) -> list[str]:
    """What attempts to move a machine have come to nothing for."""
    found = cloud.everything("/v1/events")
    return [one["message"] for one in found if one["type"] == "vm.move_delayed" and name in one["message"]]


def machine(cloud: Fleet, name: str, **fields: Any) -> str:
    """A machine that is heard on n1; its boot id."""
    cloud.create(name, on="n1", **fields)
    return cloud.boot_of(name)


def heard_after(cloud: Fleet, name: str) -> str:
    """The boot id that is heard from now on."""
    since = time.monotonic()
    try:
        return eventually(
            lambda: (newest := cloud.recorder.newest(name)) and newest.at > since and newest.boot,
            timeout=PATIENCE_S,
            what=f"{name} is heard again",
        )
    except AssertionError as error:
        vm = cloud.vm(name)
        error.add_note(f"{vm['phase']} {vm['conditions']} {vm['run']}\n{cloud.nodes[cloud.where(name)].agent.tail()}")
        raise


def longest_gap(cloud: Fleet, name: str) -> float:
    """For how long the machine was not heard, at most, in seconds."""
    heard = [claim.at for claim in cloud.recorder.claims if claim.machine == name]
    return max(after - before for before, after in itertools.pairwise(heard))


def clean(cloud: Fleet, name: str) -> None:
    """Only the node of a machine runs it, nothing ran twice, and no node has anything left of an attempt."""
    where = cloud.where(name)
    vm = cloud.vm(name)["id"]

    def strangers() -> list[str]:
        return [node for node, each in cloud.nodes.items() if node != where and vm in each.guests()]

    eventually(lambda: strangers() == [], timeout=PATIENCE_S, what="nothing of it runs elsewhere")
    eventually(
        lambda: not (cloud.nodes[other(where)].data / "vms" / vm).exists(),
        timeout=PATIENCE_S,
        what="no folder of it elsewhere",
    )
    eventually(lambda: len(cloud.nodes[where].guests()[vm]) == 1, what="it runs once")
    assert doubles(cloud.recorder.claims) == []


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("plain", {}),
        ("held", {"ha": True}),
        ("disky", {"disk_bytes": DISK}),
        ("seeded", {"cloud_init": {"user_data": "#cloud-config\nlocale: C.UTF-8\n"}, "disk_bytes": DISK}),
    ],
)
def test_a_machine_goes_on_on_another_node(cloud: Fleet, name: str, fields: dict[str, Any]) -> None:
    boot = machine(cloud, name, **fields)
    there = cloud.where(name)
    move = ended(cloud, begin(cloud, name))
    assert (move["state"], move["attempts"]) == ("done", 1), (move["message"], move["live"], delays(cloud, name))
    assert (move["way"], move["stopped_because"]) == ("live", "")
    assert cloud.where(name) == other(there)
    assert heard_after(cloud, name) == boot
    back = ended(cloud, begin(cloud, name, to=there))
    assert back["state"] == "done", (back["message"], back["live"], delays(cloud, name))
    assert heard_after(cloud, name) == boot
    assert cloud.recorder.boots(name) == [boot]
    assert cloud.vm(name)["run"]["confined"]
    print(f"{name}: longest gap {longest_gap(cloud, name):.2f} s, stood still {back['live']['downtime_ms']} ms")
    clean(cloud, name)


def test_a_move_that_is_aborted_half_way_leaves_the_guest_where_it_is(cloud: Fleet) -> None:
    boot = machine(cloud, "aborted", disk_bytes=DISK)
    move = begin(cloud, "aborted", bandwidth_bytes=SLOW)
    copying(cloud, move)
    cloud.post(f"/v1/moves/{move['id']}/abort")
    assert ended(cloud, move)["state"] == "aborted"
    assert cloud.where("aborted") == "n1"
    assert heard_after(cloud, "aborted") == boot
    clean(cloud, "aborted")


@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_a_move_outlives_the_death_of_an_agent(cloud: Fleet, victim: str) -> None:
    name = f"killed-{victim}"
    boot = machine(cloud, name, disk_bytes=DISK)
    move = begin(cloud, name, bandwidth_bytes=SLOW)
    copying(cloud, move)
    agent = cloud.nodes[victim].agent
    agent.kill()
    agent.start()
    move = ended(cloud, move)
    assert heard_after(cloud, name) == boot
    assert move["state"] in {"done", "failed"}, move["message"]
    clean(cloud, name)


def test_what_a_user_asks_for_meanwhile_wins(cloud: Fleet) -> None:
    machine(cloud, "stopped")
    move = begin(cloud, "stopped", bandwidth_bytes=SLOW, method="auto")
    copying(cloud, move)
    cloud.post("/v1/vms/stopped/stop", {"force": True})
    assert ended(cloud, move)["state"] == "done"
    vm = eventually(
        lambda: (vm := cloud.vm("stopped"))["conditions"]["converged"] and vm, timeout=PATIENCE_S, what="it is off"
    )
    assert vm["phase"] == "stopped"
    eventually(lambda: all(vm["id"] not in node.guests() for node in cloud.nodes.values()), what="nothing runs")


def test_a_drain_moves_machines_while_they_run_and_stops_those_for_which_that_is_not_possible(cloud: Fleet) -> None:
    boots = {name: machine(cloud, name) for name in ("drained-1", "drained-2")}
    changed = machine(cloud, "changed")
    assert cloud.request("PATCH", "/v1/vms/changed", json={"cpus": 2}).status_code < 300
    cloud.post("/v1/nodes/n1/drain", {"parallel": 3})
    drain = eventually(
        lambda: (drain := cloud.get("/v1/nodes/n1")["drain"])["ended_at"] and drain,
        timeout=3 * PATIENCE_S,
        what="the end of a drain",
    )
    assert (drain["state"], drain["failed"]) == ("done", 0), drain
    for name, boot in boots.items():
        assert cloud.where(name) == "n2"
        assert heard_after(cloud, name) == boot
        (move,) = cloud.get("/v1/moves", vm=name)["items"]
        assert (move["way"], move["stopped_because"]) == ("live", ""), delays(cloud, name)
        clean(cloud, name)
    (move,) = cloud.get("/v1/moves", vm="changed")["items"]
    assert (move["way"], move["stopped_because"]) == ("restart", "changes wait for a restart: cpus")
    assert cloud.boot_of("changed", other_than=changed)
    cloud.post("/v1/nodes/n1/uncordon")


@pytest.mark.parametrize("seed", seeds(4))
def test_whatever_happens_at_whatever_moment_it_runs_once_and_is_the_same(cloud: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    name = f"chaos-{seed}"
    boot = machine(cloud, name)
    move = begin(cloud, name, bandwidth_bytes=4 * SLOW)
    for _ in range(2):
        time.sleep(chance.uniform(0.1, 3.0))  # no synchronisation: any moment will do
        node = cloud.nodes[chance.choice(["n1", "n2"])]
        match chance.choice(["kill", "cut", "stop"]):
            case "kill":
                node.agent.kill()
                time.sleep(chance.uniform(0, 0.5))
                node.agent.start()
            case "cut":
                node.host.cut("data")
                time.sleep(chance.uniform(0.5, 4))
                node.host.heal("data")
            case _:
                node.signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.2, 3))
                node.signal(signal.SIGCONT)
    move = ended(cloud, move)
    assert move["state"] in {"done", "failed"}, move["message"]
    assert heard_after(cloud, name) == boot
    assert cloud.recorder.boots(name) == [boot]
    clean(cloud, name)

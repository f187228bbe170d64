"""Machines move while they run and write to a volume that both nodes see: nothing is lost, and never do two write.

Every guest keeps a diary on its volume (`support.diary`), before, during and after, and at the end the volume has all
of it. QEMU locks what it writes, so a second writer would show as a guest that stops with an error, too.
"""

import random
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from nacre.agent.storage.layers import read
from support import diary, netns
from support.console import Console
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
WAIT = 90


@pytest.fixture(scope="module")
def cloud() -> Iterator[Fleet]:
    with netns.lab() as lab:
        lab.root.chmod(0o711)  # or machines could not have users of their own, who must reach their files
        with fleet(lab, nodes=2) as running:
            running.post("/v1/pools", {"name": "nfs", "path": str(running.shared), "shared": True})
            yield running


@pytest.fixture(autouse=True)
def room(cloud: Fleet) -> Iterator[None]:
    """What a test has made is gone after it: two small nodes have no room for the machines of all."""
    yield
    for vm in cloud.everything("/v1/vms"):
        cloud.delete(f"/v1/vms/{vm['id']}")
    eventually(lambda: not cloud.everything("/v1/vms"), timeout=PATIENCE_S, what="no machines")


class Writer:
    """A machine on n1 that keeps a diary on a volume, and can be heard."""

    def __init__(self, cloud: Fleet, name: str, **fields: Any) -> None:
        self.cloud = cloud
        self.name = name
        cloud.create(name, on="n1", **fields)
        self.boot = cloud.boot_of(name)
        done(cloud.post("/v1/volumes", {"name": name, "pool": "nfs", "size_bytes": diary.SIZE}, wait=WAIT))
        done(cloud.post(f"/v1/vms/{name}/volumes", {"volume": name}, wait=WAIT))
        with closing(Console(cloud, name)) as shell:
            diary.keep(shell, self.volume["id"][-20:])
        self.known = self.further(0)

    @property
    def volume(self) -> Any:
        return self.cloud.get(f"/v1/volumes/{self.name}")

    def further(self, beyond: int) -> int:
        """It writes on: the number that it has reached by now."""
        with closing(Console(self.cloud, self.name)) as shell:
            return eventually(
                lambda: (now := diary.reached(shell)) > beyond and now, timeout=PATIENCE_S, what="more is written"
            )

    def is_on(self, node: str) -> None:
        """The same guest writes on, on this node, and only that holds the volume."""
        self.known = self.further(self.known)
        assert self.cloud.where(self.name) == node
        assert self.cloud.recorder.boots(self.name) == [self.boot]
        assert doubles(self.cloud.recorder.claims) == []
        eventually(lambda: self.volume["node"]["name"] == node, what="the volume is where its machine is")
        eventually(lambda: self.volume["phase"] == "ready", timeout=PATIENCE_S, what="the volume is ready")
        for name, each in self.cloud.nodes.items():
            record = each.data / "volume-records" / f"{self.volume['id']}.json"
            eventually(lambda there=name == node, at=record: at.exists() is there, what=f"one record, not on {name}")

    def ends(self) -> int:
        """It is switched off: all that it wrote is there. How many numbers that is."""
        self.cloud.post(f"/v1/vms/{self.name}/stop", {"force": True}, wait=WAIT)
        eventually(
            lambda: all(self.cloud.vm(self.name)["id"] not in node.guests() for node in self.cloud.nodes.values()),
            timeout=PATIENCE_S,
            what="no process is left",
        )
        folder = self.cloud.shared / self.volume["id"]
        manifest = read(folder)
        assert manifest is not None
        return diary.check(folder / manifest.active, self.known, self.cloud.root)

    def moves(self, **fields: Any) -> Any:
        return self.cloud.post(f"/v1/vms/{self.name}/move", {"method": "live", **fields})

    def delays(self) -> list[str]:
        found = self.cloud.everything("/v1/events")
        return [one["message"] for one in found if one["type"] == "vm.move_delayed" and self.name in one["message"]]


def done(accepted: Any) -> Any:
    assert accepted["operation"]["state"] == "succeeded", accepted["operation"]
    return accepted["resource"]


def now(cloud: Fleet, move: Any) -> Any:
    return cloud.get(f"/v1/moves/{move['id']}")


def ended(cloud: Fleet, move: Any) -> Any:
    return eventually(
        lambda: (found := now(cloud, move))["ended_at"] and found, timeout=2 * PATIENCE_S, what="the end of a move"
    )


def copying(cloud: Fleet, move: Any) -> None:
    try:
        eventually(
            lambda: (live := now(cloud, move)["live"]) and live["transferred_bytes"] > 0,
            timeout=PATIENCE_S,
            what="some of it has been copied",
        )
    except AssertionError as error:
        told = [one["message"] for one in cloud.everything("/v1/events")][-20:]
        raise AssertionError(f"{error}\n{now(cloud, move)}\n{told}") from error


def test_a_guest_writes_on_while_it_goes_there_and_back_and_a_snapshot_waits_for_that(cloud: Fleet) -> None:
    writer = Writer(cloud, "there-and-back", disk_bytes=32 << 20)
    move = writer.moves(bandwidth_bytes=SLOW)
    copying(cloud, move)
    writer.known = writer.further(writer.known)
    cloud.post(f"/v1/volumes/{writer.name}/snapshots", {"name": "meanwhile"})
    move = ended(cloud, move)
    assert (move["state"], move["way"], move["attempts"]) == ("done", "live", 1), (move["message"], writer.delays())
    writer.is_on("n2")
    eventually(
        lambda: cloud.get(f"/v1/volumes/{writer.name}/snapshots")["items"][0]["phase"] == "ready",
        timeout=PATIENCE_S,
        what="the snapshot has been taken where the machine is",
    )
    writer.known = writer.further(writer.known)
    back = ended(cloud, writer.moves(to="n1"))
    assert back["state"] == "done", (back["message"], writer.delays())
    writer.is_on("n1")
    print(f"{writer.ends()} numbers, stood still {move['live']['downtime_ms']} and {back['live']['downtime_ms']} ms")


def test_a_move_that_is_aborted_half_way_leaves_the_volume_to_its_machine(cloud: Fleet) -> None:
    writer = Writer(cloud, "aborted", ha=True)
    move = writer.moves(bandwidth_bytes=SLOW)
    copying(cloud, move)
    cloud.post(f"/v1/moves/{move['id']}/abort")
    assert ended(cloud, move)["state"] == "aborted"
    writer.is_on("n1")
    move = ended(cloud, writer.moves())
    assert move["state"] == "done", (move["message"], writer.delays())
    writer.is_on("n2")
    writer.ends()


@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_the_death_of_an_agent_half_way_costs_nothing(cloud: Fleet, victim: str) -> None:
    writer = Writer(cloud, f"killed-{victim}")
    move = writer.moves(bandwidth_bytes=SLOW)
    copying(cloud, move)
    agent = cloud.nodes[victim].agent
    agent.kill()
    agent.start()
    move = ended(cloud, move)
    assert move["state"] in {"done", "failed"}, move["message"]
    writer.is_on(cloud.where(writer.name))
    writer.ends()


def test_a_volume_that_lies_on_its_node_keeps_its_machine_there_and_that_is_said(cloud: Fleet) -> None:
    cloud.create("local", on="n1")
    cloud.boot_of("local")
    done(cloud.post("/v1/volumes", {"name": "own", "size_bytes": diary.SIZE}, wait=WAIT))
    done(cloud.post("/v1/vms/local/volumes", {"volume": "own"}, wait=WAIT))
    answer = cloud.request("POST", "/v1/vms/local/move", json={"method": "live"})
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["code"] == "live_move_impossible"
    assert "no other node reaches its volume own" in problem["detail"]


@pytest.mark.parametrize("seed", seeds(3))
def test_whatever_happens_at_whatever_moment_nothing_that_was_written_is_lost(cloud: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    writer = Writer(cloud, f"chaos-{seed}")
    move = writer.moves(bandwidth_bytes=4 * SLOW)
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
    writer.is_on(cloud.where(writer.name))
    writer.ends()

"""Everything goes wrong at once, for minutes: nothing is lost, nothing is left, nothing ever runs twice.

Two replicas of the control plane on one PostgreSQL and three nodes with real guests. Programs are killed and stopped,
links cut, hosts lose their power, clocks jump, while a client makes, moves and deletes machines and drains nodes. What
goes wrong and what the client asks follow from a seed, which is printed. NACRE_CHAOS_SEED and NACRE_CHAOS_MINUTES
choose another run and a longer one.
"""

import asyncio
import os
import time
from collections import Counter

import asyncpg
import pytest

from support import netns
from support.changes import Client
from support.leftovers import assert_as_it_was, snapshot_of
from support.multihost import PATIENCE_S, SHORT, Fleet, fleet, until_none
from support.platform import eventually
from support.postgres import Cluster
from support.trouble import Troublemaker, plan
from support.witness import doubles, lives

pytestmark = [
    pytest.mark.host,
    pytest.mark.anyio,
    pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-"),
]

SECONDS = float(os.environ.get("NACRE_CHAOS_MINUTES", "1")) * 60
SEED = int(os.environ.get("NACRE_CHAOS_SEED", "1"))
LULL_S = 14.0
LULL_EVERY_S = 40.0
CONVERGES_S = 180.0
"""Generous: at the end, on two processors, half a dozen guests may boot at once."""


@pytest.mark.timeout(SECONDS * 2 + 420)
async def test_whatever_goes_wrong_nothing_is_lost_left_or_run_twice(
    anyio_backend: str, postgres_cluster: Cluster
) -> None:
    name = await postgres_cluster.create()
    await asyncio.to_thread(chaos, postgres_cluster.url(name))
    await postgres_cluster.drop(name)


def chaos(database: str) -> None:
    print(f"NACRE_CHAOS_SEED={SEED} NACRE_CHAOS_MINUTES={SECONDS / 60:g}", flush=True)
    troubles = plan(SEED, SECONDS, nodes=3, replicas=2, lull_every=LULL_EVERY_S, lull=LULL_S)
    with netns.lab() as lab, fleet(lab, replicas=2, database=database, **SHORT) as cloud:
        before = snapshot_of(cloud)
        client = Client(cloud, SEED)
        client.begin()
        trouble = Troublemaker(cloud, troubles)
        client.start()
        try:
            trouble.run(still=client.is_alive)
        finally:
            client.end()
        print(f"done: {dict(trouble.done)}; asked: {dict(client.asked)}", flush=True)
        healed = time.monotonic()
        settle(cloud, client)
        print(f"all converged {time.monotonic() - healed:.1f} s after the last trouble", flush=True)
        judge(cloud, client)
        clear(cloud)
        assert_as_it_was(cloud, before, timeout=PATIENCE_S)
    assert asyncio.run(rows_left(database)) == {}


def settle(cloud: Fleet, client: Client) -> None:
    """Everything that was accepted becomes true."""
    cloud.all_ready(timeout=CONVERGES_S, among=frozenset({"ready", "cordoned", "draining"}))
    for name in cloud.nodes:
        eventually(lambda name=name: cloud.post(f"/v1/nodes/{name}/uncordon"), what=f"{name} uncordoned")
    until_none(client.unsettled, timeout=CONVERGES_S, what="all as it was accepted")
    until_none(lambda: open_moves(cloud), timeout=CONVERGES_S, what="no open moves")
    until_none(lambda: open_copies(cloud), timeout=CONVERGES_S, what="nothing to be let go of")
    until_none(client.unsettled, timeout=CONVERGES_S, what="all as it was accepted, moves included")


def open_moves(cloud: Fleet) -> list[str]:
    """Moves and drains that have not ended."""
    moves = [f"{move['vm']['name']}: {move['state']}" for move in cloud.everything("/v1/moves") if not move["ended_at"]]
    drains = [node["name"] for node in cloud.everything("/v1/nodes") if node["drain"] and not node["drain"]["ended_at"]]
    return moves + drains


def open_copies(cloud: Fleet) -> list[str]:
    """What nodes have not let go of yet, or not deleted."""
    copies = [copy for name in cloud.nodes for copy in cloud.everything(f"/v1/nodes/{name}/copies")]
    return [f"{copy['vm']['name']}: {copy['state']}" for copy in copies if copy["state"] != "kept"]


def judge(cloud: Fleet, client: Client) -> None:
    """The invariants."""
    claims = cloud.recorder.claims
    print(f"{len(claims)} claims of {sum(map(len, lives(claims).values()))} boots", flush=True)
    assert doubles(claims) == []
    machines = {vm["name"]: vm for vm in cloud.everything("/v1/vms")}
    assert {name: vm["desired"] for name, vm in machines.items()} == client.wanted
    running = {vm["id"]: vm["node"]["name"] for vm in machines.values() if vm["desired"] == "running"}
    for name in client.wanted:
        if client.wanted[name] == "running":
            cloud.boot_of(name)
    there = Counter(
        (vm, node.name) for node in cloud.nodes.values() for vm, pids in node.guests().items() for _ in pids
    )
    assert there == Counter(running.items())
    for node in cloud.nodes.values():
        consistent(cloud, node.name, [vm for vm in machines.values() if vm["node"] and vm["node"]["name"] == node.name])


def consistent(cloud: Fleet, name: str, machines: list[dict[str, object]]) -> None:
    """What is on record about a node is what is on the node, and adds up."""
    node, seen = cloud.nodes[name], cloud.get(f"/v1/nodes/{name}")
    assert seen["vms"] == len(machines)
    assert seen["reserved_memory_bytes"] == sum(vm["spec"]["memory_bytes"] for vm in machines)  # type: ignore[index]
    assert seen["reserved_cpus"] == sum(vm["spec"]["cpus"] for vm in machines)  # type: ignore[index]
    held = {path.name for path in (node.data / "vms").glob("vm-*")}
    never_ran_here = {vm["id"] for vm in machines if vm["desired"] == "stopped"} - held
    assert held | never_ran_here == {vm["id"] for vm in machines}
    copies = cloud.everything(f"/v1/nodes/{name}/copies")
    kept = {path.name for path in (node.data / "copies").glob("vm-*")}
    assert {copy["state"] for copy in copies} <= {"kept"}
    assert kept == {f"{copy['vm']['id']}.{copy['fence']}" for copy in copies}
    until_none(node.others, timeout=30, what=f"no stray programs on {name}")


async def rows_left(database: str) -> dict[str, int]:
    """Rows that speak of machines although there is none any more."""
    connection = await asyncpg.connect(database)
    try:
        questions = {
            "vms": "SELECT count(*) FROM vms",
            "copies": "SELECT count(*) FROM copies",
            "published_ports": "SELECT count(*) FROM published_ports",
            "open moves": "SELECT count(*) FROM moves WHERE ended_at IS NULL",
            "open drains": "SELECT count(*) FROM drains WHERE ended_at IS NULL",
        }
        counted = {name: await connection.fetchval(question) for name, question in questions.items()}
        return {name: count for name, count in counted.items() if count}
    finally:
        await connection.close()


def clear(cloud: Fleet) -> None:
    """Deleting everything leaves nothing."""
    for vm in cloud.everything("/v1/vms"):
        cloud.delete(f"/v1/vms/{vm['name']}", wait=120)
    for name, node in cloud.nodes.items():
        cloud.delete(f"/v1/nodes/{name}/copies")
        until_none(lambda name=name: cloud.everything(f"/v1/nodes/{name}/copies"), timeout=PATIENCE_S, what="no copies")
        until_none(lambda node=node: list((node.data / "copies").glob("vm-*")), timeout=PATIENCE_S, what="no folders")
        assert list((node.data / "vms").glob("vm-*")) == []
        assert node.guests() == {}
        assert node.guards() == []
        seen = cloud.get(f"/v1/nodes/{name}")
        assert (seen["vms"], seen["reserved_cpus"], seen["reserved_memory_bytes"]) == (0, 0, 0)

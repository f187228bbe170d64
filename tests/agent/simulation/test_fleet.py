"""A small fleet in this process against a real gateway: it joins, obeys orders, and is itself again after a restart."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nacre.agent import places
from nacre.agent.settings import Settings
from nacre.agent.simulation.fleet import Fleet
from nacre.control.services import enrolments
from nacre.control.store import nodes
from nacre.control.store.db import Database
from nacre.errors import NacreError
from nacre.lib.clock import SystemClock
from nacre.model.events import SYSTEM
from nacre.model.ids import NodeId
from nacre.schema.nodes import NodeTokenCreate
from support.database import opened
from support.linking import Replica, replica
from support.waiting import until

pytestmark = pytest.mark.anyio

NODES = 5


@pytest.fixture(scope="package")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def gate(database_url: str, tmp_path: Path, wakes: Any) -> AsyncGenerator[Replica]:
    """A gateway on the host's own clock, as simulated nodes are."""
    async with opened(database_url, SystemClock(), wakes) as database, replica(database, tmp_path) as running:
        yield running


async def join(gate: Replica, uses: int = NODES) -> str:
    joining = enrolments.Joining(gateway=gate.address, ca=gate.ca.fingerprint)
    async with gate.db.write() as tx:
        return (await enrolments.issue(tx, NodeTokenCreate(uses=uses), joining, actor=SYSTEM)).join


def settings(tmp_path: Path, join: str = "") -> Settings:
    made = Settings(
        data_dir=str(tmp_path / "fleet"),
        run_dir=str(tmp_path / "run"),
        join=join,
        simulate=NODES,
        simulate_zones=("eu/a", "eu/b"),
        simulate_socket=f"/tmp/{tmp_path.name[-40:]}.sock",
    )
    places.prepare(made)
    return made


@asynccontextmanager
async def fleet(tmp_path: Path, join: str = "") -> AsyncGenerator[Fleet]:
    running = Fleet(settings(tmp_path, join))
    task = asyncio.create_task(running.run())
    try:
        await until(lambda: task.done() or running.status()["linked"] == NODES, timeout=30)
        yield running
    finally:
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()


async def order(tmp_path: Path, text: str) -> Any:
    reader, writer = await asyncio.open_unix_connection(settings(tmp_path).simulate_socket)
    writer.write(f"{text}\n".encode())
    answer = json.loads(await reader.readline())
    writer.close()
    return answer


async def stored(db: Database) -> dict[str, nodes.NodeRow]:
    async with db.read() as rd:
        return {row.name: row for row in await nodes.every(rd)}


async def heard_again(db: Database, node: NodeId) -> bool:
    """Whether a node is heard within a few heartbeats."""
    async with db.read() as rd:
        before = await nodes.get(rd, node)
    assert before is not None
    for _ in range(10):
        await asyncio.sleep(0.05)
        async with db.read() as rd:
            now = await nodes.get(rd, node)
        if now is not None and now.last_seen_at != before.last_seen_at:
            return True
    return False


async def is_not_heard(db: Database, node: NodeId) -> bool:
    return not await heard_again(db, node)


async def test_a_fleet_joins_with_one_token_and_is_the_same_after_a_restart(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)):
        first = await stored(gate.db)
        assert sorted(first) == [f"sim-0000{index}" for index in range(1, NODES + 1)]
        assert {row.zone for row in first.values()} == {"a", "b"}
        assert gate.gateway.linked == {row.id for row in first.values()}
    await until(lambda: not gate.gateway.linked)
    async with fleet(tmp_path):
        again = await stored(gate.db)
        assert {name: row.id for name, row in again.items()} == {name: row.id for name, row in first.items()}


async def test_a_silent_node_keeps_its_link_and_says_nothing_until_it_is_resumed(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)) as running:
        (chosen,) = (await order(tmp_path, "silence 1"))["nodes"]
        # What was said before may still be on its way to the database.
        await until(lambda: is_not_heard(gate.db, chosen["id"]))
        assert chosen["id"] in gate.gateway.linked
        assert running.status()["silent"] == 1
        await order(tmp_path, "resume")
        assert await heard_again(gate.db, chosen["id"])
        assert len(gate.gateway.linked) == NODES


async def test_a_simulation_ends_although_a_node_of_it_is_silent(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)):
        await order(tmp_path, "silence 1")
    await until(lambda: not gate.gateway.linked)


async def test_a_killed_node_is_gone_and_starts_again(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)) as running:
        before = await stored(gate.db)
        assert (await order(tmp_path, "kill sim-00002"))["ok"]
        await until(lambda: before["sim-00002"].id not in gate.gateway.linked)
        assert running.status()["off"] == 1
        await order(tmp_path, "resume sim-00002")
        await until(lambda: before["sim-00002"].id in gate.gateway.linked)
        after = (await stored(gate.db))["sim-00002"]
        assert after.id == before["sim-00002"].id
        assert after.instance > before["sim-00002"].instance


async def test_a_killed_node_that_was_silent_is_gone_too(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)):
        (chosen,) = (await order(tmp_path, "silence 1"))["nodes"]
        await order(tmp_path, f"kill {chosen['name']}")
        await until(lambda: chosen["id"] not in gate.gateway.linked)


async def test_orders_that_make_no_sense_are_refused_with_a_hint(gate: Replica, tmp_path: Path) -> None:
    async with fleet(tmp_path, await join(gate)):
        for text, code in (("dance", "unknown_order"), ("silence 9", "too_few_nodes"), ("kill nobody", "unknown_node")):
            answer = await order(tmp_path, text)
            assert (answer["ok"], answer["code"]) == (False, code)
            assert answer["hint"]


async def test_a_fleet_that_cannot_join_ends_with_the_reason(gate: Replica, tmp_path: Path) -> None:
    task = asyncio.create_task(Fleet(settings(tmp_path, await join(gate, uses=NODES - 1))).run())
    await asyncio.wait([task], timeout=30)
    group = task.exception()
    assert isinstance(group, BaseExceptionGroup)
    refused = group.subgroup(NacreError)
    assert refused is not None
    assert {error.code for error in leaves(refused)} == {"enrolment_token_used"}


def leaves(group: BaseExceptionGroup[NacreError]) -> list[NacreError]:
    return [
        leaf for each in group.exceptions for leaf in (leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]

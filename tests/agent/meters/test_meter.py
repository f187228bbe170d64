"""The meter on a node of fake machines, which are real processes: samples, history, viewers, and no traces."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.meters.exposition import lines
from nacre.agent.meters.meter import Meter
from nacre.agent.meters.sampling import of_process
from nacre.lib.clock import ManualClock
from nacre.model.ids import VmId
from nacre.model.metrics import MetricsQuery
from nacre.model.vms import Desired, Phase
from support.intents import newer, vm_intent
from support.node import Node

pytestmark = pytest.mark.anyio


@pytest.fixture
async def node(anyio_backend: str) -> AsyncGenerator[Node]:
    made = await Node().begin()
    yield made
    await made.close()


def meter_of(node: Node, clock: ManualClock) -> Meter:
    (node.root / "metrics").mkdir(exist_ok=True)
    return Meter(node.root, lambda: node.executor.machines, clock)


async def sampled(meter: Meter, clock: ManualClock, times: int) -> None:
    for _ in range(times):
        clock.advance(10)
        await meter.once()


async def test_a_machine_is_measured_while_it_runs_and_its_history_outlives_the_agent(node: Node) -> None:
    intent, clock = vm_intent(), ManualClock()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    meter = meter_of(node, clock)
    await sampled(meter, clock, 4)
    series = await meter_of(node, clock).range(intent.id, MetricsQuery())
    assert series.step_s == 10
    assert len(series.points) == 4
    assert all((point.memory_resident_bytes or 0) > 1 << 20 for point in series.points)
    assert [point.cpu_cores is not None for point in series.points] == [False, True, True, True]
    text = "\n".join(lines(meter.latest(), meter.names()))
    assert f'nacre_vm_cpu_seconds_total{{vm="{intent.id}",name="{intent.name}"}}' in text

    node.want(newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, generation=2)
    await sampled(meter, clock, 2)
    assert len((await meter.range(intent.id, MetricsQuery())).points) == 4
    assert meter.latest() == {}


async def test_nothing_stays_of_a_machine_that_is_deleted(node: Node) -> None:
    intent, clock = vm_intent(), ManualClock()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    meter = meter_of(node, clock)
    await sampled(meter, clock, 1)
    assert list((node.root / "metrics").iterdir()) != []
    node.want(newer(intent, Desired.ABSENT))
    await node.shows(intent.id, Phase.ABSENT, generation=2)
    await sampled(meter, clock, 1)
    assert list((node.root / "metrics").iterdir()) == []


async def test_viewers_see_points_as_they_are_measured(node: Node) -> None:
    intent, clock = vm_intent(), ManualClock()
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    meter = meter_of(node, clock)
    await sampled(meter, clock, 1)
    async with meter.follow(intent.id) as one, meter.follow(intent.id) as other:
        first = await asyncio.wait_for(one.get(), 5)
        assert first == await asyncio.wait_for(other.get(), 5)
        await sampled(meter, clock, 1)
        assert (await asyncio.wait_for(one.get(), 5)).at > first.at
        await sampled(meter, clock, 50)
        assert other.qsize() <= 32


async def test_a_name_that_is_no_id_leads_nowhere(node: Node) -> None:
    meter = meter_of(node, ManualClock())
    assert (await meter.range(VmId("../../etc/passwd"), MetricsQuery())).points == ()


def test_a_process_that_took_the_number_of_another_is_not_measured(tmp_path: Path) -> None:
    place = tmp_path / "7"
    place.mkdir()
    fields = ["S", *["0"] * 10, "100", "50", *["0"] * 6, "4711", "0"]
    (place / "stat").write_text(f"7 (a ) b) {' '.join(fields)}\n")
    (place / "statm").write_text("1000 20 3\n")
    cpu_ns, resident = of_process(7, 4711, tmp_path) or (0, 0)
    assert cpu_ns == 150 * 10_000_000
    assert resident == 20 * 4096
    assert of_process(7, 4712, tmp_path) is None
    assert of_process(8, 4711, tmp_path) is None

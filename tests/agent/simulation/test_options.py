"""What a simulation is told, and what it makes of nonsense."""

from pathlib import Path

import pytest

from nacre.agent.settings import Settings
from nacre.agent.simulation.options import capacity, options
from nacre.errors import InvalidInputError
from nacre.model.units import GIB, TIB


def settings(tmp_path: Path, **values: object) -> Settings:
    return Settings(data_dir=str(tmp_path), run_dir=str(tmp_path / "run"), simulate=3, **values)  # type: ignore[arg-type]


def test_nodes_are_named_in_order_and_spread_over_zones(tmp_path: Path) -> None:
    made = options(settings(tmp_path, simulate_zones=("eu/a", "eu/b")))
    assert [made.name(index) for index in (1, 2, 3)] == ["sim-00001", "sim-00002", "sim-00003"]
    assert [made.place(index) for index in (1, 2, 3)] == [("eu", "b"), ("eu", "a"), ("eu", "b")]


def test_without_zones_every_node_is_where_the_agent_is(tmp_path: Path) -> None:
    assert options(settings(tmp_path, region="eu", zone="c", node_name="load")).place(7) == ("eu", "c")
    assert options(settings(tmp_path, node_name="load")).name(1) == "load-00001"


def test_a_capacity_is_read_and_what_is_left_out_is_filled_in() -> None:
    read = capacity("memory=8GiB, cpus=4")
    assert (read.cpus, read.memory_bytes, read.disk_bytes) == (4, 8 * GIB, TIB)


@pytest.mark.parametrize("text", ["cpus", "cpus=many", "cpus=0", "ram=1GiB", "memory=1"])
def test_a_capacity_that_cannot_be_read_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        capacity(text)
    assert caught.value.hint
    assert caught.value.field == "simulate_capacity"


@pytest.mark.parametrize("text", ["eu", "eu/", "/a", "eu/a/b"])
def test_a_place_that_cannot_be_read_is_refused_with_a_hint(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        options(settings(tmp_path, simulate_zones=(text,)))
    assert "region/zone" in caught.value.hint


def test_a_socket_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as caught:
        options(settings(tmp_path, simulate_socket=f"/tmp/{'x' * 120}"))
    assert caught.value.field == "simulate_socket"

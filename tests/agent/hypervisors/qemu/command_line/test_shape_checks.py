"""Shapes that other nodes send: what no guest of ours can have is refused before it is in a command line."""

import time
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Arrival, Launch
from nacre.agent.hypervisors.qemu import command_line
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.surroundings import Surroundings
from nacre.model.convergence import FailureClass
from nacre.model.hardware import CpuOptions, MemoryOptions
from nacre.model.units import MIB
from nacre.model.vms import MachineType
from support.machines import Bench

QEMU = Surroundings(binary="/usr/bin/qemu", accelerator="tcg")
SHAPE = Shape(board="pc-q35-7.2", accelerator="tcg", cpus=1, memory_bytes=128 * MIB, ports=6, places={"nic0": 0})


@pytest.fixture
def launch(tmp_path) -> Launch:
    made = Bench(root=tmp_path).launch(arrival=Arrival(shape="said"))
    return replace(made, run_directory=Path("/run/vm"))  # paths of sockets are short


def built(launch: Launch, **changes: object) -> list[str]:
    return command_line.build(launch, QEMU, shape=msgspec.structs.replace(SHAPE, **changes), incoming=True)


@pytest.mark.parametrize(
    ("machine", "board"),
    [
        (MachineType.Q35, "q35"),
        (MachineType.Q35, "pc-q35-4.0.1"),
        (MachineType.Q35, "pc-q35-rhel9.4.0"),
        (MachineType.Q35, "pc-q35-noble-hpb"),
        (MachineType.PC, "pc-i440fx-7.2"),
        (MachineType.PC, "pc-i440fx-noble"),
    ],
)
def test_boards_are_called_as_qemu_calls_them(launch, machine, board):
    words = built(replace(launch, machine=machine), board=board)
    assert words[words.index("-machine") + 1].split(",")[0] == board


@pytest.mark.parametrize(
    "changes",
    [
        {"board": "pc-q35-7.2,firmware=/etc/shadow"},
        {"board": "pc-i440fx-7.2"},
        {"board": "pc-q35-7.2\n"},
        {"board": "none"},
        {"board": ""},
        {"generation": "auto"},
        {"ports": 300_000},
        {"ports": -1},
        {"places": {"nic0": -1}},
        {"places": {"nic0": 120}},
        {"places": {"gone": 1 << 70}},
        {"places": {f"disk{number}": number % 100 for number in range(200)}},
        {"dimms": (MIB,) * 17},
        {"dimms": (-MIB, MIB)},
        {"dimms": (MIB,)},
        {"memory_bytes": 129 * MIB},
        {"memory_bytes": 0},
        {"cpus": 2},
        {"cpus": 0},
    ],
)
def test_what_cannot_be_is_refused_at_once(launch, changes):
    began = time.monotonic()
    with pytest.raises(DriverError) as caught:
        built(launch, **changes)
    assert (caught.value.code, caught.value.failure_class) == ("shape_impossible", FailureClass.PERMANENT)
    assert caught.value.hint
    assert time.monotonic() - began < 2


def test_what_a_machine_may_grow_to_may_come(launch):
    larger = replace(launch, cpu=CpuOptions(max=4), memory=MemoryOptions(max_bytes=512 * MIB))
    words = built(larger, cpus=4, dimms=(128 * MIB, 256 * MIB))
    assert "4" in words[words.index("-smp") + 1].split(",")


def test_what_was_saved_here_may_have_another_size(launch):
    assert built(replace(launch, arrival=None), memory_bytes=256 * MIB)

"""The command line, word for word. A change here changes every guest: mean it.

`golden/<variant>.txt` has an option per line. When a change is meant: NACRE_WRITE_GOLDEN=1 pytest <this file>
"""

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nacre.agent.hypervisors.launch import Launch, UserNic
from nacre.agent.hypervisors.qemu import command_line
from nacre.agent.hypervisors.qemu.command_line import Surroundings, TapFds
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.model.ids import RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType
from support.qemu_variants import VARIANTS

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("NACRE_WRITE_GOLDEN") == "1"
LAUNCH = Launch(
    vm=VmId("vm-01m7ysnyghpha2pa88yjx222cp"),
    run=RunId("run-01m7ysnyghpha2pa88yjx222cp"),
    name="web-1",
    machine=MachineType.Q35,
    cpus=2,
    memory_bytes=512 * MIB,
    directory=Path("/data/vms/vm-1"),
    run_directory=Path("/run/nacre/x"),
    lock_fd=9,
    kernel=Path("/cache/kernel"),
    initrd=Path("/cache/initrd"),
    kernel_args="console=ttyS0 quiet",
    nics=(UserNic(id="nic0", mac="52:4e:00:00:00:01"),),
)
TCG = Surroundings(binary="/usr/bin/qemu", accelerator="tcg")
KVM = replace(TCG, accelerator="kvm")
MACOS = Surroundings(binary="/opt/homebrew/bin/qemu", accelerator="hvf", sandbox=False, linux=False)
FDS = {"nic0": TapFds(tap=(4, 5), vhost=(6, 7))}
GOES_ON = Shape(
    board="pc-q35-7.2",
    accelerator="tcg",
    cpus=3,
    memory_bytes=512 * MIB,
    dimms=(128 * MIB, 256 * MIB),
    ports=16,
    places={"nic0": 5, "gone": 0},
    generation="11111111-2222-3333-4444-555555555555",
)
CPU_MAX = VARIANTS["cpus-on-pc"](Path("/data"))["cpu"]
ON_MACOS = ("plain", "boots-from-disk", "windows", "small-devices", "uefi", "memory-as-dimms")


def build(launch: Launch = LAUNCH, qemu: Surroundings = TCG, **options) -> list[str]:
    return command_line.build(launch, qemu, **options)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def check(name: str, words: list[str]) -> None:
    """Compare with the golden file: a line for each option, with its value."""
    lines: list[str] = []
    for word in words:
        if word.startswith("-") or not lines or " " in lines[-1].partition("-append")[0]:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    text = "\n".join(lines) + "\n"
    path = GOLDEN / f"{name}.txt"
    if WRITE:
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text)
    assert path.read_text() == text


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_each_kind_of_machine_has_its_words(name: str) -> None:
    changes = VARIANTS[name](Path("/data/vms/vm-1"))
    fds = {"nic0": TapFds(tap=(4,))} if name == "nic-macvtap" else FDS
    check(name, build(replace(LAUNCH, **changes), fds=fds))


@pytest.mark.parametrize("name", ["plain", "windows"])
def test_hardware_acceleration_under_linux(name: str) -> None:
    check(f"kvm-{name}", build(replace(LAUNCH, **VARIANTS[name](Path("/data/vms/vm-1"))), KVM))


@pytest.mark.parametrize("name", ON_MACOS)
def test_hardware_acceleration_under_macos(name: str) -> None:
    check(f"macos-{name}", build(replace(LAUNCH, **VARIANTS[name](Path("/data/vms/vm-1"))), MACOS))


def test_a_guest_that_goes_on_finds_everything_where_it_was() -> None:
    changes = VARIANTS["memory-as-dimms"](Path("/data"))
    launch = replace(LAUNCH, **changes, disks=VARIANTS["boots-from-disk"](Path("/data"))["disks"], cpu=CPU_MAX)
    launch = replace(launch, cpus=3, memory_bytes=2 * GIB)  # as it was asked to be by now
    check("goes-on", build(launch, shape=GOES_ON, incoming=True))


def test_a_guest_that_goes_on_has_as_many_ports_as_it_had() -> None:
    """With all of them taken it is started with none to spare: QEMU would number them otherwise than the guest."""
    taken = {disk.id: number for number, disk in enumerate(LAUNCH.disks)} | {"nic0": 15}
    words = build(LAUNCH, shape=msgspec.structs.replace(GOES_ON, places=taken))
    assert sum(word.startswith("pcie-root-port,") for word in words) == GOES_ON.ports


def test_every_golden_file_has_a_test() -> None:
    names = {*VARIANTS, *(f"macos-{name}" for name in ON_MACOS), "kvm-plain", "kvm-windows", "goes-on"}
    assert {path.stem for path in GOLDEN.iterdir()} == names


@pytest.mark.parametrize(("memory", "megabytes"), [(64 * MIB, 32), (512 * MIB, 64), (2 * GIB, 256), (64 * GIB, 512)])
def test_translated_code_is_bounded_under_tcg(memory: int, megabytes: int) -> None:
    assert value(build(replace(LAUNCH, memory_bytes=memory)), "-accel") == f"tcg,thread=multi,tb-size={megabytes}"


@pytest.mark.parametrize(
    ("machine", "accelerator", "arguments", "expected"),
    [
        ("microvm", "tcg", "quiet", "quiet tsc_early_khz=2400000"),
        ("microvm", "tcg", "", "tsc_early_khz=2400000"),
        ("microvm", "tcg", "tsc_early_khz=1", "tsc_early_khz=1"),
        ("microvm", "kvm", "quiet", "quiet"),
        ("q35", "tcg", "quiet", "quiet"),
    ],
)
def test_a_microvm_under_tcg_is_told_the_clock_rate(machine, accelerator, arguments, expected) -> None:
    launch = replace(LAUNCH, machine=MachineType(machine), kernel_args=arguments)
    words = build(launch, Surroundings(binary="q", accelerator=accelerator, tsc_khz=2_400_000))
    assert value(words, "-append") == expected


def test_a_qemu_without_a_sandbox_gets_none() -> None:
    assert "-sandbox" not in build(qemu=replace(TCG, sandbox=False))


def test_commas_in_names_and_paths_stay_where_they_are() -> None:
    words = build(replace(LAUNCH, name="a,b", directory=Path("/d,1"), run_directory=Path("/r,1")))
    assert value(words, "-name") == "guest=a,,b,debug-threads=on"
    assert "socket,id=qmp,path=/r,,1/qmp.sock,server=on,wait=off" in words
    assert any("logfile=/d,,1/console.log," in word for word in words)
    assert any("hostname=a-b" in word for word in words)


def test_the_proof_of_an_accelerator_is_a_machine_without_a_monitor() -> None:
    words = command_line.probe_words("q", accelerator="kvm", kernel=Path("/k"))
    assert value(words, "-accel") == "kvm"
    assert not {"-mon", "-qmp"} & set(words)

"""The command line, word for word. A change here changes every guest: mean it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile, Launch, UserNic
from nacre.agent.hypervisors.qemu import command_line
from nacre.model.ids import RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType, PublishedPort, TransportProtocol

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
CONSOLE = (
    "socket,id=console,path=/run/nacre/x/console.sock,server=on,wait=off"
    ",logfile=/data/vms/vm-1/console.log,logappend=on"
)
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
    nics=(
        UserNic(
            id="nic0",
            mac="52:4e:00:00:00:01",
            publish=(
                PublishedPort(guest_port=80, host_port=8080),
                PublishedPort(guest_port=53, host_port=5353, host_address="0.0.0.0", protocol=TransportProtocol.UDP),
            ),
        ),
    ),
)
DISK = DiskFile(id="root", path=Path("/data/vms/vm-1/root,1.qcow2"), format="qcow2")


def build(launch: Launch = LAUNCH, accelerator: str = "tcg", **options: bool) -> list[str]:
    return command_line.build(launch, binary="/usr/bin/qemu", accelerator=accelerator, **options)


def value(words: list[str], option: str) -> str:
    return words[words.index(option) + 1]


def test_a_machine_with_a_kernel_and_published_ports() -> None:
    assert build() == [
        *("/usr/bin/qemu", "-name", "guest=web-1,debug-threads=on", "-uuid", "4b689b41-e35a-5cdb-a0ca-a4a5e48077b1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-msg", "timestamp=on", "-sandbox", SANDBOX),
        *("-no-shutdown", "-machine", "q35", "-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max"),
        *("-smp", "2", "-m", "512M"),
        *(
            "-chardev",
            "socket,id=qmp,path=/run/nacre/x/qmp.sock,server=on,wait=off",
            "-mon",
            "chardev=qmp,mode=control",
        ),
        "-chardev",
        CONSOLE,
        *("-serial", "chardev:console"),
        *("-object", "rng-random,id=rng0,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng0"),
        *("-kernel", "/cache/kernel", "-initrd", "/cache/initrd", "-append", "console=ttyS0 quiet"),
        "-netdev",
        "user,id=nic0,hostname=web-1,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:0.0.0.0:5353-:53",
        *("-device", "virtio-net-pci,netdev=nic0,mac=52:4e:00:00:00:01,romfile="),
    ]


def test_a_machine_that_boots_from_its_disk() -> None:
    words = build(replace(LAUNCH, kernel=None, initrd=None, kernel_args="", disks=(DISK,), nics=()))
    assert value(words, "-machine") == "q35,graphics=off"
    assert json.loads(value(words, "-blockdev")) == {
        "driver": "qcow2",
        "node-name": "root",
        "file": {"driver": "file", "filename": "/data/vms/vm-1/root,1.qcow2", "node-name": "root-file"},
        "read-only": False,
        "discard": "unmap",
    }
    assert "virtio-blk-pci,drive=root,id=root-device,serial=root,bootindex=0" in words
    assert value(words, "-boot") == "strict=on"
    assert not {"-kernel", "-append", "-netdev"} & set(words)


@pytest.mark.parametrize(
    ("machine", "board"),
    [("pc", "pc"), ("q35", "q35"), ("microvm", "microvm,acpi=on,pcie=on,rtc=on,isa-serial=on")],
)
def test_each_machine_type_has_its_board(machine: str, board: str) -> None:
    assert value(build(replace(LAUNCH, machine=MachineType(machine))), "-machine") == board


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
    words = command_line.build(launch, binary="q", accelerator=accelerator, tsc_khz=2_400_000)
    assert value(words, "-append") == expected


def test_hardware_acceleration_is_named_plainly() -> None:
    assert value(build(accelerator="kvm"), "-accel") == "kvm"


def test_a_qemu_without_a_sandbox_gets_none() -> None:
    assert "-sandbox" not in build(sandbox=False)


def test_commas_in_names_and_paths_stay_where_they_are() -> None:
    words = build(replace(LAUNCH, name="a,b", directory=Path("/d,1"), run_directory=Path("/r,1")))
    assert value(words, "-name") == "guest=a,,b,debug-threads=on"
    assert "socket,id=qmp,path=/r,,1/qmp.sock,server=on,wait=off" in words
    assert any("logfile=/d,,1/console.log," in word for word in words)
    assert any("hostname=a-b," in word for word in words)


def test_a_machine_has_one_uuid_for_ever_and_none_of_another() -> None:
    other = VmId("vm-01m7ysnyghpha2pa88yjx222cq")
    assert command_line.uuid_of(LAUNCH.vm) == "4b689b41-e35a-5cdb-a0ca-a4a5e48077b1"
    assert command_line.uuid_of(other) != command_line.uuid_of(LAUNCH.vm)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"machine": MachineType.MICROVM, "memory_bytes": 96 * MIB}, "memory_too_small"),
        ({"run_directory": Path("/" + "x" * 100)}, "path_too_long"),
        (
            {
                "nics": (
                    UserNic(id="n", mac="", publish=(PublishedPort(guest_port=1, host_port=1, host_address="::1"),)),
                )
            },
            "ipv6_publish_unsupported",
        ),
    ],
)
def test_what_qemu_cannot_do_is_refused_with_a_hint(changes: dict[str, object], code: str) -> None:
    with pytest.raises(DriverError) as caught:
        build(replace(LAUNCH, **changes))  # type: ignore[arg-type]
    assert caught.value.code == code
    assert caught.value.hint

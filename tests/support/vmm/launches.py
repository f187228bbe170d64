"""Launches for tests of what is pure in drivers: everything has a path, nothing is there."""

from dataclasses import replace
from pathlib import Path

from nacre.agent.hypervisors.launch import DiskFile, Launch, TapNic
from nacre.model.ids import RunId, VmId
from nacre.model.units import MIB
from nacre.model.vms import MachineType

VM = VmId("vm-01k7v3q9x2m4n5p6r7s8t9v0w1")


def launch(**changes: object) -> Launch:
    """A machine with a kernel and nothing else."""
    basis = Launch(
        vm=VM,
        run=RunId("run-01k7v3q9x2m4n5p6r7s8t9v0w2"),
        name="guinea-pig",
        machine=MachineType.Q35,
        cpus=2,
        memory_bytes=256 * MIB,
        directory=Path("/var/lib/nacre/vms/pig"),
        run_directory=Path("/run/nacre/pig"),
        lock_fd=3,
        kernel=Path("/images/vmlinux"),
    )
    return replace(basis, **changes)  # type: ignore[arg-type]


def disk(name: str = "root", **changes: object) -> DiskFile:
    """A raw disk."""
    basis = DiskFile(id=name, path=Path(f"/disks/{name}"), format="raw")
    return replace(basis, **changes)  # type: ignore[arg-type]


def nic(name: str = "nic-0", **changes: object) -> TapNic:
    """A NIC on a tap."""
    basis = TapNic(id=name, mac="52:4e:00:00:00:01", device="tap0")
    return replace(basis, **changes)  # type: ignore[arg-type]

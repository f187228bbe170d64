"""What tests of the driver of Cloud Hypervisor share: faults, devices, and questions to its guests."""

import asyncio
import json
from pathlib import Path
from typing import cast

from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.cloud_hypervisor.guest import CloudHypervisorGuest
from nacre.agent.hypervisors.launch import DiskFile, Launch, TapNic
from nacre.model.units import MIB
from support.machines import Bench, printed
from support.waiting import until


def failing(faults: Path, call: str, kind: str = "refuse", **more: object) -> None:
    """Have a call go wrong from now on (`faults`)."""
    refusal = {"status": 500, "body": ["Error from API", "no"]} if kind == "refuse" else {}
    faults.write_text(json.dumps([{"kind": kind, "path": f"/api/v1/{call}", **refusal, **more}]))


def disk(lab: Bench, name: str = "data") -> DiskFile:
    """A disk of one MiB."""
    path = lab.root / f"{name}.raw"
    path.write_bytes(bytes(MIB))
    return DiskFile(id=name, path=path, format="raw")


def nic(name: str = "nic0", device: str = "tap0") -> TapNic:
    """A NIC on a tap device."""
    return TapNic(id=name, mac="52:4e:00:00:00:01", device=device)


def leftovers(launch: Launch) -> list[str]:
    """What a life has left in its run directory."""
    return sorted(path.name for path in launch.run_directory.iterdir())


async def info(guest: Guest) -> dict:
    """What Cloud Hypervisor says of its machine."""
    return dict(await cast("CloudHypervisorGuest", guest)._api.ask("vm.info", timeout=5))


async def typed(guest: Guest, line: str) -> None:
    """Type a line on the console, and wait for its echo."""
    _, writer = await asyncio.open_unix_connection(guest.console_socket)
    writer.write(f"\n{line}\n".encode())
    await writer.drain()
    await until(lambda: line in printed(guest))
    writer.close()

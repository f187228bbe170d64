"""The laboratory of the contract suite: every driver that this host can run, on a bench of its own.

Hypervisors that need what test machines lack (KVM) are stood in for by programs with their command lines, sockets and
manners (`support/vmm`). Environment variables name the real ones, which then run the same suite.
"""

import os
import socket
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.abilities import CanOffer
from nacre.agent.hypervisors.base import Guest, Hypervisor
from nacre.agent.hypervisors.cloud_hypervisor.driver import CloudHypervisor
from nacre.agent.hypervisors.firecracker.driver import FirecrackerHypervisor
from nacre.agent.hypervisors.firecracker.places import CONSOLE_INPUT
from nacre.agent.hypervisors.launch import Launch
from nacre.lib import processes
from nacre.model.capabilities import Capability, offers
from support.guests import tiny_image
from support.machines import Bench, Watch
from support.vmm import cloud_hypervisor_fields, specification, swagger, wire
from support.vmm.faults import FAULTS
from support.vmm.installed import install

REAL = {"cloud-hypervisor": "NACRE_CLOUD_HYPERVISOR", "firecracker": "NACRE_FIRECRACKER"}
"""Environment variables that name real binaries, by absolute paths."""
DRIVERS = {"cloud-hypervisor": CloudHypervisor, "firecracker": FirecrackerHypervisor}


class Lab(Bench):
    """A bench with the driver under test."""

    driver: Hypervisor
    emulated = False
    """Behind the driver runs a small program instead of a kernel, which understands words such as `fake.tick`."""
    publishes = True
    """Guests have a network that leads to ports of this host."""
    resets = True
    """Guests begin again in the same process."""
    lingers = True
    """The process of a guest that powered off stays until that is on record."""
    off = "poweroff"
    """What is typed on the console to end a guest."""

    def launch(self, **changes) -> Launch:
        """A machine that boots something that prints the ready line."""
        if changes.get("publish") and not self.publishes:
            pytest.skip(f"{self.driver.name} has no user-mode network and publishes nothing by itself")
        basis: dict[str, object] = {} if self.publishes else {"nics": ()}
        if self.driver.name == "fake":
            return super().launch(**changes)
        if self.emulated:
            for name in ("kernel", "initrd"):
                (self.root / name).touch()
            basis |= {"kernel": self.root / "kernel", "initrd": self.root / "initrd"}
        else:
            image = tiny_image()
            basis |= {"kernel": image.kernel, "initrd": image.initrd, "kernel_args": image.kernel_args}
        return super().launch(**(basis | changes))

    async def started(self, **changes):
        """A running guest, and what it tells."""
        launch = self.launch(**changes)
        guest = self.keep(await self.driver.start(launch))
        return launch, guest, Watch(guest)

    async def type_unattended(self, launch: Launch, guest: Guest, line: str) -> None:
        """Type on the console of a guest without an agent, and wait a little for its end."""
        pipe = launch.run_directory / CONSOLE_INPUT  # where the console is a socket only with an agent
        console = None if pipe.exists() else socket.socket(socket.AF_UNIX)
        if console is None:
            pipe.write_text(line)
        else:
            console.connect(str(guest.console_socket))
            console.sendall(line.encode())
        await processes.wait_exit(guest.handle.pid, guest.handle.start_time, 1.5)
        if console is not None:
            console.close()


def driver_of(name: str, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Hypervisor:
    """The driver, and its hypervisor in the PATH."""
    state = lab.root / "state"
    if name not in REAL:
        lab.emulated = name == "fake"
        return registry.load(name, state)
    real = os.environ.get(REAL[name])
    lab.emulated = not real
    if name == "firecracker":
        lab.lingers, lab.off = False, "reboot"
    programs = install(lab.root / "bin", **{name.replace("-", "_"): real or name.replace("-", "_")})
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    if real:
        return registry.load(name, state)
    (lab.root / "kvm").touch()
    monkeypatch.setenv(wire.TRACE, str(lab.root / "trace"))
    monkeypatch.setenv(cloud_hypervisor_fields.STRAYS, str(lab.root / "strays"))
    return DRIVERS[name](state_directory=state, kvm=lab.root / "kvm")


@pytest.fixture(params=["fake", "qemu", "cloud-hypervisor", "firecracker"])
async def lab(request, monkeypatch) -> AsyncGenerator[Lab]:
    """A bench with each driver."""
    made = Lab()
    made.driver = driver_of(request.param, made, monkeypatch)
    info = await made.driver.probe()
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    if isinstance(made.driver, CanOffer):
        offer = await made.driver.offer()
        made.publishes = offers(offer, Capability.NIC_USER)
        made.resets = offers(offer, Capability.RESET)
    yield made
    if made.driver.name == "firecracker":
        if swagger.document() is not None:
            swagger.check_trace(made.root / "trace")
        await made.close()
        return
    strays, asked = text(made.root / "strays"), specification.traced(made.root / "trace")
    await made.close()
    assert strays == ""  # what the hypervisor would have dropped without a word
    if (document := specification.find(made.driver.name)) is not None:
        assert [problem for request in asked for problem in document.problems(*request)] == []


@pytest.fixture
def faults(lab, monkeypatch) -> Path:
    """Where what is to go wrong with a stand-in is written down."""
    if not lab.emulated:
        pytest.skip("needs the stand-in, whose guest does as it is told")
    path = lab.root / "faults"
    monkeypatch.setenv(FAULTS, str(path))
    return path


def text(path: Path) -> str:
    return path.read_text() if path.exists() else ""

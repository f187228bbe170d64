"""The laboratory of the contract suite: every driver that this host can run, on a bench of its own."""

from collections.abc import AsyncGenerator

import pytest

from nacre.agent.hypervisors import registry
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.launch import Launch
from support.guests import tiny_image
from support.machines import Bench, Watch


class Lab(Bench):
    """A bench with the driver under test."""

    driver: Hypervisor

    def launch(self, **changes) -> Launch:
        """A machine that boots something that prints the ready line."""
        if self.driver.name == "fake":
            return super().launch(**changes)
        image = tiny_image()
        basis = {"kernel": image.kernel, "initrd": image.initrd, "kernel_args": image.kernel_args}
        return super().launch(**(basis | changes))

    async def started(self, **changes):
        """A running guest, and what it tells."""
        launch = self.launch(**changes)
        guest = self.keep(await self.driver.start(launch))
        return launch, guest, Watch(guest)


@pytest.fixture(params=["fake", "qemu"])
async def lab(request) -> AsyncGenerator[Lab]:
    """A bench with each driver."""
    made = Lab()
    made.driver = registry.load(request.param, made.root / "state")
    info = await made.driver.probe()
    if not info.available:
        pytest.skip(f"{info.name}: {info.reason}")
    yield made
    await made.close()

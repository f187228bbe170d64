"""A bench with the QEMU driver, without an accelerator: what is tested with it is the same under each."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from support.guests import tiny_image
from support.machines import Bench, printed, ready
from support.shells import Shell


class QemuBench(Bench):
    """A bench whose machines boot the tiny image."""

    driver: QemuHypervisor
    shells: contextlib.ExitStack

    def tiny(self, **changes):
        """A machine that boots the tiny image. Memory that comes later is used at once."""
        image = tiny_image()
        arguments = f"{image.kernel_args} memhp_default_state=online_movable"
        basis = {"kernel": image.kernel, "initrd": image.initrd, "kernel_args": arguments}
        return self.launch(**(basis | changes))

    async def booted(self, launch):
        """A running guest that has booted, and a shell in it."""
        guest = self.keep(await self.driver.start(launch))
        await ready(guest, timeout=150)  # a busy host boots slowly
        return guest, await self.shell(guest)

    async def shell(self, guest):
        """A shell in a guest, closed when the test is over."""
        shell = await Shell.open(guest.console_socket, lambda: still(guest))
        self.shells.callback(shell.close)
        return shell


async def still(guest):
    """How a guest is that does not answer: where its CPUs are, twice, and what its interrupts and timers wait for."""
    said = [str(await guest._talk.execute("query-status"))]
    for question in ("registers -a", "registers -a", "lapic", "pic", "irq"):
        answer = await guest._talk.execute("human-monitor-command", {"command-line": f"info {question}"})
        said += [line for line in str(answer).splitlines() if not line.startswith(("FP", "FCW", "YMM", "XMM", "DR"))]
        await asyncio.sleep(0.5)
    return "\n".join([*said, printed(guest)[-1000:]])


@contextlib.asynccontextmanager
async def qemu_bench() -> AsyncIterator[QemuBench]:
    """A bench for the length of a block."""
    made = QemuBench()
    made.driver = QemuHypervisor(state_directory=made.root / "state", candidates=())
    try:
        with contextlib.ExitStack() as made.shells:
            yield made
    finally:
        await made.close()

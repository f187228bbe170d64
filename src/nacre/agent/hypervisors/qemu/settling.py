"""What is done to a guest right after its process began, because a command line cannot say it: pins and the balloon."""

import contextlib
import os
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.qemu import answers, sizing
from nacre.agent.hypervisors.qemu.command_line.memory import numbers
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import CpuOptions


async def settle(launch: Launch, talk: Talk, pid: int) -> None:
    """Do it. May be repeated. Raises DriverError."""
    await pin(launch.cpu, talk, pid)
    balloon = launch.memory.balloon
    if balloon is not None and balloon.reclaim_bytes:
        await sizing.reclaim(talk, balloon.reclaim_bytes)


async def pin(options: CpuOptions, talk: Talk, pid: int) -> None:
    """Bind the threads of virtual CPUs to CPUs of the host."""
    if not options.pins:
        return
    threads = {cpu.cpu_index: cpu.thread_id for cpu in await talk.ask(list[answers.Cpu], "query-cpus-fast")}
    for wanted in options.pins:
        thread = threads.get(wanted.cpu)
        if thread is None or thread not in _threads(pid):
            continue  # a CPU that is not there yet is bound when it is added
        try:
            os.sched_setaffinity(thread, numbers(wanted.host_cpus))
        except OSError as error:
            raise DriverError(
                "cpu_pin_failed",
                f"CPU {wanted.cpu} cannot be bound to the node's CPUs {wanted.host_cpus}: {error.strerror}",
                hint="name CPUs that the node has and that the agent may use",
                failure_class=FailureClass.PERMANENT,
            ) from error


def _threads(pid: int) -> set[int]:
    with contextlib.suppress(FileNotFoundError):  # it has just ended, which whoever asks it next is told
        return {int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()}
    return set()

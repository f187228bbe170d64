"""A guest's memory and devices in files, and back. Called by `guest` (save) and `driver` (restore).

QEMU writes what it would send to another host into a file that we have opened. What the next process must be made like
is written beside it, last: without that, a checkpoint is none.
"""

import asyncio
import os
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.command_line import shape as shapes
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.qmp import RefusedError
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.model.convergence import FailureClass

MEMORY = "memory"
SHAPE = "shape.json"

_NAME = "checkpoint"
_LOOK_S = 0.05
_FAST = 1 << 50  # bytes per second: no limit
_PLAIN = ("events", "pause-before-switchover", "postcopy-ram", "return-path")
"""Capabilities that belong to guests that move. `moving` tells by the first that a guest has gone elsewhere."""


async def save(talk: Talk, directory: Path, shape: Shape) -> None:
    """Write a paused guest to a folder. May be repeated. Raises DriverError."""
    if (directory / SHAPE).exists():
        return
    status = str((await talk.ask(dict[str, object], "query-status"))["status"])
    if status == "postmigrate":
        raise refused(
            "guest_saved_before",
            "the machine has been saved since it was paused, and QEMU does that once",
            "resume the machine, pause it again, then save it",
        )
    if status != "paused":
        raise refused("guest_not_paused", "only a paused machine can be saved", "pause it first")
    off = [{"capability": name, "state": False} for name in _PLAIN]
    await talk.execute("migrate-set-capabilities", {"capabilities": off})
    await talk.execute("migrate-set-parameters", {"max-bandwidth": _FAST})
    path = directory / MEMORY
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        await talk.hand_over(file, _NAME)
        await talk.execute("migrate", {"uri": f"fd:{_NAME}"})
        await _written(talk)
        await asyncio.to_thread(os.fsync, file)
    finally:
        os.close(file)
    draft = directory / f"{SHAPE}.partial"
    draft.write_text(shapes.encode(shape))
    draft.replace(directory / SHAPE)


def read(directory: Path) -> Shape:
    """Return what the guest in a folder was made of. Raises DriverError if it is none that was finished."""
    try:
        return shapes.decode((directory / SHAPE).read_text())
    except OSError as error:
        raise unusable("it was not finished, or its files are gone") from error


async def load(talk: Talk, directory: Path) -> None:
    """Have a waiting QEMU go on from a folder; returns when it has, paused. Raises DriverError, also when it ends."""
    try:
        file = os.open(directory / MEMORY, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unusable("its memory is gone") from error
    try:
        await talk.hand_over(file, _NAME)
    finally:
        os.close(file)
    try:
        await talk.execute("migrate-incoming", {"uri": f"fd:{_NAME}"})
    except RefusedError as error:
        raise unusable(error.text) from error
    while (await talk.ask(dict[str, object], "query-status"))["status"] == "inmigrate":  # noqa: ASYNC110  # as below
        await asyncio.sleep(_LOOK_S)


def unusable(why: str) -> DriverError:
    """Return the error for a checkpoint that no guest goes on from."""
    return DriverError(
        "checkpoint_unusable",
        f"the machine cannot go on from its checkpoint: {why}",
        hint="use another checkpoint, or start the machine from its disks",
        failure_class=FailureClass.PERMANENT,
    )


async def _written(talk: Talk) -> None:
    while (found := await talk.ask(answers.Migration, "query-migrate")).status != "completed":
        if found.status in {"failed", "cancelled"}:
            raise DriverError(
                "checkpoint_failed",
                f"the machine could not be saved: {found.error_desc or 'is the storage full?'}",
                hint="make room where checkpoints are kept; the machine is as it was",
            )
        await asyncio.sleep(_LOOK_S)

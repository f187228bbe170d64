"""Staying until an operation has ended, and saying meanwhile why it does not get on. Used by every `--wait`."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nacre.cli import progress
from nacre.errors import NacreError, TimeoutExpiredError
from nacre.model.convergence import Failure
from nacre.schema.common import OperationOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre

LOOK_S = 1.5
"""How often the object of an operation is asked why it is not yet what it should be."""


@dataclass(frozen=True)
class Why:
    """What keeps an operation, and what to do about it; empty if nothing is known to."""

    message: str = ""
    hint: str = ""


async def until_done(nacre: "Nacre", operation: OperationOut, timeout_s: float, say: progress.Say) -> OperationOut:
    """Return the operation once it has succeeded. Raises NacreError if it ends otherwise or time runs out."""
    why = Why()

    async def look() -> None:
        nonlocal why
        while True:
            await asyncio.sleep(LOOK_S)
            why = await _why(nacre, operation)

    looking = asyncio.create_task(look())
    try:
        return await nacre.operations.wait(
            operation, timeout_s=timeout_s, seen=lambda seen: say(progress.of_operation(seen, why.message))
        )
    except TimeoutExpiredError as late:
        why = await _why(nacre, operation)
        if not why.message:
            raise
        raise TimeoutExpiredError(late.code, f"{late.message}: {why.message}", hint=why.hint or late.hint) from late
    finally:
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


async def _why(nacre: "Nacre", operation: OperationOut) -> Why:
    """What the object of an operation says of why it is not there yet. Never raises NacreError."""
    ref = operation.object_id
    try:
        match operation.noun:
            case "vm":
                return _of_failure((await nacre.vms.show(ref)).conditions.degraded, operation)
            case "volume":
                return _of_failure((await nacre.volumes.show(ref)).conditions.degraded, operation)
            case "image":
                image = await nacre.images.show(ref)
                return Why(image.error, image.hint)
            case _:
                return Why()
    except NacreError:  # it is deleted, or nobody answers now: waiting itself says so if that stays
        return Why()


def _of_failure(failure: Failure | None, operation: OperationOut) -> Why:
    """What is wrong with the intent of the operation, or with a newer one; older ones are of no interest any more."""
    if failure is None or failure.generation < operation.generation:
        return Why()
    return Why(failure.message, failure.hint)

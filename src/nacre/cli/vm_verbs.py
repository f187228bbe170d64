"""One verb on several machines, and staying until it is true. Used by `vm.py`."""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from nacre.cli import arguments, output, progress, vm_views
from nacre.cli.options import Waiting
from nacre.cli.session import Session
from nacre.cli.verbs import finish, on_each
from nacre.cli.waiting import until_done
from nacre.errors import NacreError, NotFoundError
from nacre.schema.common import Accepted, AcceptedBatch
from nacre.schema.vms import VmOut

if TYPE_CHECKING:
    from nacre.client.api import Nacre
    from nacre.client.vms import Vms


class Verb(StrEnum):
    """What can be asked of a machine that exists."""

    START = "start"
    STOP = "stop"
    FORCE_STOP = "force stop"
    REBOOT = "reboot"
    RESET = "reset"
    PAUSE = "pause"
    RESUME = "resume"
    DELETE = "delete"


async def act_on(session: Session, names: Sequence[str], verb: Verb, waiting: Waiting) -> None:
    """Ask `verb` of each machine, wait if wanted, and print what came of it."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    wanted = arguments.refs(names, "vm")
    async with session.client() as nacre:
        with progress.spinner(f"{verb} {', '.join(wanted)}") as say:

            async def one(ref: str) -> Accepted[VmOut]:
                accepted = await _ask(nacre.vms, verb, ref, session.project)
                return await settle(nacre, accepted, waiting.wait, timeout_s, say)

            done, failure = await on_each(wanted, one)
    if done:
        output.outcome(session, done, lambda accepted: vm_views.outcome(accepted, waiting.wait))
    finish(failure)


async def settle_all(
    nacre: "Nacre", batch: AcceptedBatch[VmOut], wait: bool, timeout_s: float, say: progress.Say
) -> tuple[list[Accepted[VmOut]], NacreError | None]:
    """The same as `settle` for machines that were created together, and the first failure after all were told."""
    parts = [
        Accepted(resource=one.resource, generation=one.generation, operation=one.operation)
        for one in (batch, *batch.more)
    ]
    if len(parts) == 1:
        return [await settle(nacre, parts[0], wait, timeout_s, say)], None
    known = {one.resource.name: one for one in parts}
    return await on_each(list(known), lambda name: settle(nacre, known[name], wait, timeout_s, say))


async def settle(
    nacre: "Nacre", accepted: Accepted[VmOut], wait: bool, timeout_s: float, say: progress.Say
) -> Accepted[VmOut]:
    """Return the change as it ended, or as it was accepted if nobody wants to wait. Raises NacreError."""
    if not wait:
        return accepted
    vm = accepted.resource
    operation = await until_done(nacre, accepted.operation, timeout_s, say)
    with contextlib.suppress(NotFoundError):  # deleted: what was accepted is the last that is known of it
        vm = await nacre.vms.show(vm.id)
    return msgspec.structs.replace(accepted, resource=vm, operation=operation)


def _ask(vms: "Vms", verb: Verb, ref: str, project: str) -> Awaitable[Accepted[VmOut]]:
    if verb in {Verb.STOP, Verb.FORCE_STOP}:
        return vms.stop(ref, force=verb is Verb.FORCE_STOP, project=project)
    asks: dict[Verb, Callable[..., Awaitable[Accepted[VmOut]]]] = {
        Verb.START: vms.start,
        Verb.REBOOT: vms.reboot,
        Verb.RESET: vms.reset,
        Verb.PAUSE: vms.pause,
        Verb.RESUME: vms.resume,
        Verb.DELETE: vms.delete,
    }
    return asks[verb](ref, project=project)

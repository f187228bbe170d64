"""Small things that the executor does to one machine: note an intent, forget what has passed, press a button."""

import msgspec
import structlog

from nacre.agent import planner
from nacre.agent.vms.change import change
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.pause import pause, resume
from nacre.agent.vms.presence import OF_GUEST
from nacre.agent.vms.reset import reset
from nacre.model.convergence import FailureClass
from nacre.model.vm_changes import forgiven
from nacre.model.vms import VmIntent

log = structlog.get_logger()


def accept(machine: Machine, intent: VmIntent) -> None:
    """Take note of a newer intent. It becomes durable with the step that follows, or when there is none."""
    first = machine.record.intent is None
    nonces: dict[str, object] = {}
    if first:
        nonces = {"reboot_nonce": intent.reboot_nonce, "reset_nonce": intent.reset_nonce}
        nonces["restore_nonce"] = 0 if intent.restore is None else intent.restore.nonce
    run = machine.record.run
    if run is not None:
        nonces["run"] = msgspec.structs.replace(run, info=forgiven(run.info))
    machine.note(intent=intent, deleted=False, crashes=0, restarts=0, arriving=None, **nonces)
    machine.forgive()


def past(machine: Machine) -> None:
    """Nothing is left to be done, so what failed and was to be tried again is no failure any more."""
    failure = machine.failure
    if failure is not None and failure.failure_class is not FailureClass.PERMANENT and not machine.frozen:
        log.info("vm.recovered", vm=machine.id, code=failure.code)
        machine.recovered()


async def press(
    machine: Machine, step: planner.Pause | planner.Resume | planner.Reset | planner.Change, host: Host
) -> None:
    """Do something to a running guest and see what it did."""
    guest = machine.guest
    if guest is None:
        return  # gone meanwhile; the next look sees that
    match step:
        case planner.Pause():
            await pause(guest)
        case planner.Resume():
            await resume(guest)
        case planner.Reset(nonce=nonce):
            await reset(machine, guest, nonce)
        case planner.Change(intent=intent):
            await change(machine, guest, intent.spec, host)
    state = await guest.state()
    if machine.guest is guest:
        machine.presence = OF_GUEST[state]

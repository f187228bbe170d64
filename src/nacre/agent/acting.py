"""Small things that the executor does to one machine: note an intent, forget what has passed, press a button."""

import msgspec
import structlog

from nacre.agent import planner
from nacre.agent.vms.change import change
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.pause import pause, resume
from nacre.agent.vms.presence import OF_GUEST, Presence
from nacre.agent.vms.reset import reset
from nacre.model.convergence import FailureClass
from nacre.model.vm_changes import forgiven
from nacre.model.vms import Desired, VmIntent

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
    before, failure = machine.record.intent, machine.failure
    machine.note(intent=intent, deleted=False, crashes=0, restarts=0, arriving=None, **nonces)
    machine.forgive()
    if machine.presence is not Presence.HALTED:
        return
    machine.resumable = intent.desired is Desired.RUNNING and (machine.resumable or is_resumed(before, intent))
    if failure is not None and not machine.resumable:
        machine.failure = msgspec.structs.replace(failure, generation=intent.generation)


def is_resumed(before: VmIntent | None, intent: VmIntent) -> bool:
    """Whether a newer intent asks for nothing but that the machine runs, or for that after a pause. Pure."""
    if before is None or intent.desired is not Desired.RUNNING:
        return False
    return before.desired is Desired.PAUSED or msgspec.structs.replace(before, generation=intent.generation) == intent


def past(machine: Machine) -> None:
    """Nothing is left to be done, so what failed and was to be tried again is no failure any more."""
    failure, intent = machine.failure, machine.record.intent
    if failure is None or failure.failure_class is FailureClass.PERMANENT or machine.frozen:
        return
    if machine.presence is Presence.HALTED and (intent is None or intent.desired is Desired.RUNNING):
        return  # it waits for somebody
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
            machine.resumable = False
        case planner.Reset(nonce=nonce):
            await reset(machine, guest, nonce)
        case planner.Change(intent=intent):
            await change(machine, guest, intent.spec, host)
    state = await guest.state()
    if machine.guest is guest:
        machine.presence = OF_GUEST[state]

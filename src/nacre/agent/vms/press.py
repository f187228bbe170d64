"""Do something to a running guest that takes no time, and see what it did. Called by the executor."""

from nacre.agent.steps import Pause, Reset, Resume
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.pause import pause, resume
from nacre.agent.vms.presence import OF_GUEST
from nacre.agent.vms.reset import reset


async def press(machine: Machine, step: Pause | Resume | Reset) -> None:
    """Carry a step out. Raises DriverError."""
    guest = machine.guest
    if guest is None:
        return  # gone meanwhile; the next look sees that
    match step:
        case Pause():
            await pause(guest)
        case Resume():
            await resume(guest)
        case Reset(nonce=nonce):
            await reset(machine, guest, nonce)
    state = await guest.state()
    if machine.guest is guest:
        machine.presence = OF_GUEST[state]

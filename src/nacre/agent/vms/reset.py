"""Press the reset button of a machine. Called by the executor.

The number is recorded after the button was pressed: an agent that dies in between presses it once more, which the
guest hardly notices while its firmware runs; the other way round, a reset that was promised would be lost.

A guest whose process cannot begin again is ended instead, and started anew by the plan that follows.
"""

from nacre.agent.hypervisors.abilities import CannotReset
from nacre.agent.hypervisors.base import Guest
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.stop import kill


async def reset(machine: Machine, guest: Guest, nonce: int) -> None:
    """Reset the guest and record that number `nonce` is done. Raises DriverError."""
    if isinstance(guest, CannotReset):
        await kill(machine, guest)
    else:
        await guest.reset()
    await machine.save(reset_nonce=nonce)

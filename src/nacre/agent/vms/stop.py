"""Switch a machine off: ask the guest, wait, then end the process. Called by the executor."""

import asyncio

import structlog

from nacre.agent.failures import FENCED
from nacre.agent.host import locks
from nacre.agent.hypervisors.abilities import CanClose
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.errors import NacreError
from nacre.lib import processes
from nacre.model.convergence import FailureClass
from nacre.model.vms import ExitReason, Phase

AGENT_S = 20.0
"""How long a guest whose agent has taken the order is left to shut down before its power button is pressed as well."""
_TAKEN_S = 5.0
PRESS_AGAIN_S = 2.0
"""A guest that is still booting does not hear the power button, so it is pressed again and again."""
_GONE_S = 15.0

log = structlog.get_logger()


async def stop(machine: Machine, *, timeout_s: float, force: bool, host: Host) -> None:
    """Return when the machine is off. May be repeated. Raises DriverError if its process does not end."""
    machine.enter(Phase.STOPPING)
    guest = machine.guest
    if guest is None:
        await end_unseen(machine, host)
        return
    if not force and timeout_s > 0 and machine.presence is not Presence.HALTED:  # it hears nothing any more
        await machine.save(ending=ExitReason.STOPPED)
        if await _ask(machine, guest, timeout_s):
            return
        if machine.frozen:
            raise _deaf()
        log.info("vm.stop_timed_out", vm=machine.id, after_s=timeout_s, next="its process is ended")
    await kill(machine, guest)


async def kill(
    machine: Machine, guest: Guest, reason: ExitReason = ExitReason.KILLED, *, elsewhere: bool = False
) -> None:
    """End the machine's process and return when that is on record. Raises DriverError.

    `elsewhere`: the guest stands still here and is another node's, which has the same volumes open.
    """
    await machine.save(ending=reason)
    if elsewhere and isinstance(guest, CanClose) and not machine.frozen:
        await guest.close()
    else:
        await guest.kill()
    if not await machine.wait_off(_GONE_S):
        raise DriverError(
            "end_not_seen", "the machine's process was ended and nobody said so", hint="it is looked at again by itself"
        )


async def end_unseen(machine: Machine, host: Host, reason: ExitReason = ExitReason.KILLED) -> None:
    """End the process that holds the machine's lock although it could not be taken over. Raises DriverError."""
    lock = host.lock_file(machine.id)
    await machine.save(ending=reason)
    for pid, started in await asyncio.to_thread(locks.holders, lock):
        log.warning("vm.unseen_process_ended", vm=machine.id, pid=pid)
        await processes.kill(pid, started)
    if not locks.is_free(lock):
        raise DriverError(
            "machine_locked",
            "a process of the machine cannot be ended",
            hint="on the node, `fuser` on the machine's lock file names the process",
        )
    machine.note(starting=None)
    await machine.ended(reason, "its process did not answer and was ended")


async def _ask(machine: Machine, guest: Guest, timeout_s: float) -> bool:
    """Ask the agent in the guest, then press the power button until the machine is off; False if it does not obey."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    if await _ask_inside(machine, timeout_s) and await machine.wait_off(min(AGENT_S, timeout_s)):
        return True
    while not machine.frozen and (left := deadline - asyncio.get_running_loop().time()) > 0:
        try:
            if machine.presence is Presence.PAUSED:
                await guest.resume()
            await guest.shutdown()
        except DriverError as error:
            if machine.presence in {Presence.NONE, Presence.LEAVING}:
                return await machine.wait_off(_GONE_S)
            log.warning("vm.not_asked", vm=machine.id, code=error.code, message=error.message)
        if await machine.wait_off(min(left, PRESS_AGAIN_S)):
            return True
    return False


async def _ask_inside(machine: Machine, timeout_s: float) -> bool:
    """Have the agent in the guest shut it down; False if there is none that does."""
    inside = machine.inside
    if inside is None or not inside.answering or machine.frozen or machine.presence is not Presence.RUNNING:
        return False
    try:
        await inside.agent.tell("guest-shutdown", {"mode": "powerdown"}, timeout=min(_TAKEN_S, timeout_s))
    except NacreError as error:
        log.info("vm.agent_not_asked", vm=machine.id, code=error.code, next="its power button is pressed")
        return False
    log.info("vm.agent_asked", vm=machine.id)
    return True


def _deaf() -> DriverError:
    return DriverError(
        FENCED,
        "the machine is frozen, because its node could not renew its lease, so it cannot be asked to stop",
        hint="it stops when its node reaches the control plane again; with --force it is switched off at once",
        failure_class=FailureClass.WAITING,
    )

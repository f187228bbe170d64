"""Hold a machine's CPUs and let them go again. Called by the executor. May be repeated. Raises DriverError."""

from nacre.agent.hypervisors.base import Guest


async def pause(guest: Guest) -> None:
    """The guest stands still, its memory stays."""
    await guest.pause()


async def resume(guest: Guest) -> None:
    """The guest goes on, also after the hypervisor held it because of a full disk."""
    await guest.resume()

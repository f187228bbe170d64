"""The guest that writes to a volume, as storage drivers see it. Used by `volume_executor`."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from nacre.agent.hypervisors.abilities import CanResizeDisks, CanSnapshotDisks
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.model.convergence import FailureClass
from nacre.model.ids import VolumeId


class GuestWriter:
    """Fulfils `storage.base.Writer`: a volume is the disk of the same name."""

    def __init__(self, guest: Guest, volume: VolumeId, lend: Callable[[DiskFile], Awaitable[object]]) -> None:
        """`lend` lets the guest's hypervisor use a file and what lies under it."""
        self._guest = guest
        self._volume = volume
        self._lend = lend

    async def switch(self, layer: DiskFile) -> None:
        """Have the guest go on with another layer."""
        if not isinstance(self._guest, CanSnapshotDisks):
            raise _stop_first("be snapshotted or cloned")
        await self._lend(layer)
        await self._guest.switch_disk(self._volume, layer)

    async def merge(self, layer: Path, taker: Path) -> None:
        """Have the guest take a layer in. Both may have been shared when its hypervisor began, and only be read."""
        if not isinstance(self._guest, CanSnapshotDisks):
            raise _stop_first("have its layers merged")
        await self._lend(DiskFile(id=self._volume, path=taker, format="qcow2"))
        await self._guest.merge_disk(self._volume, layer)

    async def grow(self, size_bytes: int) -> None:
        """Have the guest see a larger disk."""
        if not isinstance(self._guest, CanResizeDisks):
            raise _stop_first("grow")
        await self._guest.resize_disk(self._volume, size_bytes)


def in_use(what: str) -> DriverError:
    """Return the error for a volume whose user is in the way."""
    return DriverError(
        "volume_in_use",
        f"the volume cannot {what} while a machine has it open",
        hint="stop the machine or detach the volume; it goes on by itself then",
        failure_class=FailureClass.WAITING,
    )


def _stop_first(what: str) -> DriverError:
    return DriverError(
        "live_change_unsupported",
        f"the volume cannot {what} while its machine runs: the machine's hypervisor does not do that",
        hint="stop the machine or detach the volume; it goes on by itself then",
        failure_class=FailureClass.WAITING,
    )

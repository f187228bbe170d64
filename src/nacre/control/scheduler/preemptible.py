"""The machines that may be stopped for others, as arrays: one entry per machine, kept up machine by machine. Pure."""

import numpy as np
import numpy.typing as npt

from nacre.control.scheduler.values import Resident
from nacre.model.ids import VmId

NOWHERE = -1
FIRST = 64


class Preemptible:
    """Entries of machines that have gone are used again; their row is `NOWHERE`."""

    def __init__(self) -> None:
        self._entries: dict[VmId, int] = {}
        self._free: list[int] = []
        self.rows: npt.NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self.priorities: npt.NDArray[np.int64] = np.zeros(0, dtype=np.int64)
        self.amounts: npt.NDArray[np.int64] = np.zeros((3, 0), dtype=np.int64)
        """CPUs, bytes of memory and bytes of disk that each has reserved."""

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, resident: Resident, row: int) -> None:
        """Count a machine in, if it may be stopped at all."""
        if not resident.preemptible:
            return
        if not self._free:
            self._grow()
        entry = self._free.pop()
        self._entries[resident.vm] = entry
        self.rows[entry] = row
        self.priorities[entry] = resident.priority
        self.amounts[:, entry] = (resident.cpus, resident.memory_bytes, resident.disk_bytes)

    def drop(self, vm: VmId) -> None:
        """Count a machine out. One that is not there is no error."""
        entry = self._entries.pop(vm, None)
        if entry is not None:
            self.rows[entry] = NOWHERE
            self._free.append(entry)

    def _grow(self) -> None:
        first = len(self.rows)
        more = max(FIRST, first)
        self.rows = np.concatenate((self.rows, np.full(more, NOWHERE, dtype=np.intp)))
        self.priorities = np.concatenate((self.priorities, np.zeros(more, dtype=np.int64)))
        self.amounts = np.concatenate((self.amounts, np.zeros((3, more), dtype=np.int64)), axis=1)
        self._free = list(range(first + more - 1, first - 1, -1))

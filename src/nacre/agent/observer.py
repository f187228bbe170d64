"""What the agent has to tell of its machines: changes at once, everything when asked. Fed by the executor, read by the
link. Tells nothing twice.
"""

from collections.abc import Callable

from nacre.model.ids import VmId
from nacre.model.vms import VmObserved

Send = Callable[[tuple[VmObserved, ...]], None]


class Observer:
    """The newest facts of every machine."""

    def __init__(self) -> None:
        self._newest: dict[VmId, VmObserved] = {}
        self._send: Send | None = None

    def connect(self, send: Send) -> None:
        """Tell changes to `send` from now on. Whoever connects asks for everything first."""
        self._send = send

    def changed(self, vm: VmObserved) -> None:
        """Take facts of one machine."""
        if self._newest.get(vm.id) == vm:
            return
        self._newest[vm.id] = vm
        if self._send is not None:
            self._send((vm,))

    def forget(self, vm: VmId) -> None:
        """Drop a machine that there is nothing of any more."""
        self._newest.pop(vm, None)

    def clear(self) -> None:
        """Drop everything: the host has lost all that it ran."""
        self._newest.clear()
        self._send = None

    def all(self) -> tuple[VmObserved, ...]:
        """Return the newest facts of every machine."""
        return tuple(self._newest[vm] for vm in sorted(self._newest))

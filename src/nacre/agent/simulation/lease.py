"""The lease of a simulated node: the real rules, without files, for there are no guards that would read them."""

from collections.abc import Iterable
from pathlib import Path

from nacre.agent.lease import Lease
from nacre.lib.clock import Clock
from nacre.model.vms import HaPolicy
from nacre.protocol.messages import NodeIntent

_NOWHERE = Path("/nonexistent")


class SimulatedLease(Lease):
    """The lease of one node, in memory."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(_NOWHERE, clock)

    @property
    def holds(self) -> bool:
        """Whether machines that need a lease may run now."""
        return self.left_s > 0

    def told(self, intent: NodeIntent) -> None:
        """Take a desired state."""
        self._highest = max(self._highest, self._tenure, intent.tenure)
        self._tenure = intent.tenure
        before = self._needs
        self._needs = {vm.id: _NOWHERE for vm in intent.vms if vm.spec.ha is HaPolicy.RESTART}
        if self._needs.keys() - before.keys() or self._refused is not None:
            self._changed.set()

    def _write_all(self, paths: Iterable[Path], deadline: float) -> None:
        """There is nobody to write it for."""

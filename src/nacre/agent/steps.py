"""What can be done next about one machine. Chosen by the planner, carried out by the executor."""

from dataclasses import dataclass

from nacre.model.arrivals import VmArrival
from nacre.model.checkpoints import CheckpointIntent, Restoration
from nacre.model.vms import VmIntent


@dataclass(frozen=True)
class Nothing:
    """All is as it should be, or waits for somebody else."""


@dataclass(frozen=True)
class RetryAt:
    """Look again at this time (monotonic)."""

    at: float


@dataclass(frozen=True)
class Accept:
    """Take note of a newer intent. On first contact its numbers count as carried out."""

    intent: VmIntent


@dataclass(frozen=True)
class Adopt:
    """Find out whether there is a process, and take it over."""


@dataclass(frozen=True)
class Start:
    """Start it."""

    intent: VmIntent


@dataclass(frozen=True)
class Stop:
    """Switch it off, after asking the guest unless `force`."""

    intent: VmIntent
    force: bool


@dataclass(frozen=True)
class Reboot:
    """Switch it off as `Stop` does, to be started again."""

    intent: VmIntent


@dataclass(frozen=True)
class Reset:
    """Press the reset button, and record that number `nonce` is done."""

    nonce: int


@dataclass(frozen=True)
class Pause:
    """Hold its CPUs."""


@dataclass(frozen=True)
class Resume:
    """Let its CPUs run."""


@dataclass(frozen=True)
class Plug:
    """Give it the volumes that it should have, and take back the others."""

    intent: VmIntent


@dataclass(frozen=True)
class Change:
    """Have what runs be as its configuration says, as far as that can be done while it runs."""

    intent: VmIntent


@dataclass(frozen=True)
class TakeCheckpoint:
    """Keep it as it is now."""

    checkpoint: CheckpointIntent


@dataclass(frozen=True)
class DropCheckpoint:
    """Forget a checkpoint."""

    checkpoint: CheckpointIntent


@dataclass(frozen=True)
class PutBack:
    """Switch it off and put it back to a checkpoint."""

    intent: VmIntent
    restoration: Restoration


@dataclass(frozen=True)
class MergeLayers:
    """Merge layers of its root disk that nobody needs."""


@dataclass(frozen=True)
class Delete:
    """Leave nothing of it but a tombstone."""


@dataclass(frozen=True)
class RecordNonces:
    """Record these numbers as done: the machine is off, there is nothing to reboot or reset."""

    reboot: int
    reset: int


@dataclass(frozen=True)
class Retire:
    """Switch off by force what runs of the placement with this token, and set its folder aside."""

    fence: int


@dataclass(frozen=True)
class Discard:
    """Delete the copy of the placement with this token."""

    fence: int


@dataclass(frozen=True)
class Send:
    """Begin to send it to another node while it runs."""

    intent: VmIntent


@dataclass(frozen=True)
class Recollect:
    """Find out what has become of what an earlier agent had begun to send."""


@dataclass(frozen=True)
class Recall:
    """The order to send it is withdrawn: it goes on here, whatever has left."""


@dataclass(frozen=True)
class Await:
    """Make ready for a machine that comes from another node."""

    arrival: VmArrival


@dataclass(frozen=True)
class Receive:
    """The other node is there: start the process that takes the machine in."""


@dataclass(frozen=True)
class Reject:
    """Leave nothing of a machine that was to come."""


Crossing = Send | Recollect | Recall | Await | Receive | Reject
"""What has to do with moves of machines that run."""


@dataclass(frozen=True)
class Forget:
    """Remove the tombstone."""


Step = (
    Nothing
    | RetryAt
    | Accept
    | Adopt
    | Start
    | Stop
    | Reboot
    | Reset
    | Pause
    | Resume
    | Plug
    | Change
    | TakeCheckpoint
    | DropCheckpoint
    | PutBack
    | MergeLayers
    | Delete
    | RecordNonces
    | Retire
    | Discard
    | Forget
    | Crossing
)
NOTHING = Nothing()

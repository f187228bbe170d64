"""What to do next about the checkpoints of a machine. A part of `planner`. Pure.

A checkpoint is taken of the machine as it is after the restores that were asked for before it, and before those that
were asked for after it. Nothing is done while a machine comes or goes.
"""

from dataclasses import dataclass

from nacre.agent.steps import DropCheckpoint, MergeLayers, PutBack, TakeCheckpoint
from nacre.agent.vms.presence import Presence
from nacre.model.checkpoints import CheckpointIntent
from nacre.model.convergence import FailureClass
from nacre.model.ids import CheckpointId
from nacre.model.vms import Desired, VmIntent
from nacre.model.volumes import Wish

_STEADY = frozenset({Presence.NONE, Presence.RUNNING, Presence.PAUSED})


@dataclass(frozen=True, kw_only=True)
class Held:
    """What the agent knows of a machine's checkpoints."""

    checkpoints: frozenset[CheckpointId] = frozenset()
    """Those that there are, and those that could not be taken."""
    begun: frozenset[CheckpointId] = frozenset()
    """Those that an agent was killed over."""
    restore_nonce: int = 0
    mergeable: bool = False
    """There are layers that nobody needs, and that can be merged as the machine is."""
    delayed: bool = False
    """What was to be done about them was interrupted while it waited for a disk that somebody else had."""


NOTHING_HELD = Held()


def urgent(
    intent: VmIntent, held: Held, presence: Presence, *, plugged: bool
) -> TakeCheckpoint | DropCheckpoint | PutBack | None:
    """Return what comes before all else that is wanted of a machine. `plugged`: it has the volumes it should have."""
    if presence is Presence.HALTED:
        return _way_out(intent, held)
    if presence not in _STEADY:
        return None
    for wanted in intent.checkpoints:
        missing = wanted.desired is Wish.PRESENT and wanted.id not in held.checkpoints
        if missing and wanted.after <= held.restore_nonce and (plugged or presence is Presence.NONE):
            return TakeCheckpoint(wanted)
    if intent.restore is not None and intent.restore.nonce > held.restore_nonce:
        return PutBack(intent, intent.restore)
    for wanted in intent.checkpoints:
        if wanted.desired is Wish.ABSENT and wanted.id in held.checkpoints | held.begun:
            return DropCheckpoint(wanted)
    # What was never finished was never told of: nobody else can know that it is to go.
    for nameless in sorted(held.begun - {wanted.id for wanted in intent.checkpoints}):
        return DropCheckpoint(CheckpointIntent(id=nameless, desired=Wish.ABSENT))
    return None


def _way_out(intent: VmIntent, held: Held) -> PutBack | None:
    """A guest that is halted can be put back, unless something is to be kept of it first: for that it must go on."""
    missing = [each for each in intent.checkpoints if each.desired is Wish.PRESENT and each.id not in held.checkpoints]
    first = any(each.after <= held.restore_nonce for each in missing)
    if first or intent.restore is None or intent.restore.nonce <= held.restore_nonce:
        return None
    return PutBack(intent, intent.restore)


def after_off(intent: VmIntent, held: Held, presence: Presence, failure: FailureClass | None) -> bool:
    """Whether a machine is switched off before anything is done about them: by force, or because that has to wait."""
    if intent.desired is not Desired.STOPPED or presence is Presence.NONE:
        return False
    return intent.force_stop or held.delayed or failure is FailureClass.BLOCKED


def idle(held: Held, presence: Presence) -> MergeLayers | None:
    """Return what is done when all is as it was asked for."""
    return MergeLayers() if held.mergeable and presence in _STEADY else None

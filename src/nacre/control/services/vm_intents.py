"""What each verb does to the intent of a machine. Pure: a row in, the changed row out, or a refusal with a hint.

The newest intent wins, so a verb is refused only where it makes no sense, never because another is on its way.
"""

from dataclasses import replace

from nacre.control.store.vms import VmRow
from nacre.errors import ConflictError
from nacre.model.vms import Desired, Phase


def start(row: VmRow) -> VmRow:
    """It should run."""
    return replace(_kept(row), desired=Desired.RUNNING, force_stop=False)


def stop(row: VmRow, *, force: bool) -> VmRow:
    """It should be off; with `force` without asking the guest."""
    return replace(_kept(row), desired=Desired.STOPPED, force_stop=force)


def pause(row: VmRow) -> VmRow:
    """Its CPUs should stand still."""
    return replace(_on(row, "pause"), desired=Desired.PAUSED)


def resume(row: VmRow) -> VmRow:
    """Its CPUs should run again."""
    return replace(_on(row, "resume"), desired=Desired.RUNNING)


def reboot(row: VmRow) -> VmRow:
    """Its guest should restart, once more."""
    return replace(_awake(row, "reboot"), reboot_nonce=row.reboot_nonce + 1)


def reset(row: VmRow) -> VmRow:
    """Its reset button should be pressed, once more."""
    return replace(_awake(row, "reset"), reset_nonce=row.reset_nonce + 1)


def delete(row: VmRow, by: str) -> VmRow:
    """Nothing of it should be left."""
    finalizers = [] if row.node is None else ["node"]
    return replace(row, desired=Desired.ABSENT, delete_requested_by=by, finalizers=finalizers)


def raised(row: VmRow) -> VmRow:
    """Return the row as a new generation. One without a node is judged here, because no agent will."""
    row = replace(row, generation=row.generation + 1)
    return row if row.node is not None else unplaced(row)


def unplaced(row: VmRow) -> VmRow:
    """Return how a machine without a node stands: stopped is true at once, running waits for a node."""
    if row.desired is Desired.STOPPED:
        return replace(
            row,
            phase=Phase.STOPPED,
            observed_generation=row.generation,
            applied_reboot_nonce=row.reboot_nonce,
            applied_reset_nonce=row.reset_nonce,
            applied_restore_nonce=0 if row.restore is None else row.restore.nonce,
            failure=None,
        )
    return replace(row, phase=Phase.PENDING)


def _kept(row: VmRow) -> VmRow:
    if row.desired is Desired.ABSENT:
        raise ConflictError(
            "vm_being_deleted",
            f"machine {row.name} is being deleted",
            hint="create another; the name is free once it is gone",
        )
    return row


def _on(row: VmRow, verb: str) -> VmRow:
    if _kept(row).desired is Desired.STOPPED:
        raise ConflictError(
            "vm_not_running", f"cannot {verb} {row.name}: it is off", hint=f"start it with `nacre vm start {row.name}`"
        )
    return row


def _awake(row: VmRow, verb: str) -> VmRow:
    if _on(row, verb).desired is Desired.PAUSED:
        raise ConflictError(
            "vm_paused", f"cannot {verb} {row.name}: it is paused", hint=f"resume it with `nacre vm resume {row.name}`"
        )
    return row

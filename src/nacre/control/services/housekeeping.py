"""Forget what has been history for long enough. Called by the housekeeping reconciler under its lease."""

from dataclasses import dataclass
from datetime import timedelta

from nacre.control.services import checkpoints, copies, volume_snapshots
from nacre.control.store import drains, enrolments, events, moves, operations, stream_requests, tokens
from nacre.control.store.db import Tx


@dataclass(frozen=True, kw_only=True)
class Keep:
    """How long history is kept after it ended."""

    operations: timedelta = timedelta(days=30)
    events: timedelta = timedelta(days=400)
    dead_tokens: timedelta = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """How much was forgotten."""

    operations: int
    events: int
    tokens: int
    enrolments: int
    moves: int
    drains: int
    copies: int
    """Disks that machines left behind, which their nodes are now told to delete."""
    snapshots: int
    """Of volumes, whose time was over."""
    checkpoints: int
    """Of machines, whose time was over."""

    @property
    def any(self) -> bool:
        """Whether there was anything."""
        return any(vars(self).values())


async def tidy(tx: Tx, keep: Keep) -> Forgotten:
    """Delete ended operations, old events, and tokens that have been useless for long. May be repeated."""
    now = tx.now()
    await stream_requests.remove_expired(tx)
    return Forgotten(
        operations=await operations.forget(tx, now - keep.operations),
        events=await events.forget(tx, now - keep.events),
        tokens=await tokens.forget(tx, now - keep.dead_tokens),
        enrolments=await enrolments.forget(tx, now - keep.dead_tokens),
        moves=await moves.forget(tx, now - keep.operations),
        drains=await drains.forget(tx, now - keep.operations),
        copies=await copies.expire(tx),
        snapshots=await volume_snapshots.expire(tx),
        checkpoints=await checkpoints.expire(tx),
    )

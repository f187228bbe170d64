"""Desired against observed: failures, generations, and the conditions that follow from them.

Used for every reconciled noun. Conditions are derived here each time they are shown and stored nowhere.
"""

from datetime import datetime
from enum import StrEnum

import msgspec


class FailureClass(StrEnum):
    """What happens next after a failure."""

    TRANSIENT = "transient"  # tried again with backoff
    PERMANENT = "permanent"  # waits for a new generation
    WAITING = "waiting"  # waits for the dependency that the message names
    BLOCKED = "blocked"  # waits for an operator


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why `generation` is not true yet."""

    failure_class: FailureClass
    code: str
    message: str
    hint: str
    generation: int
    at: datetime
    attempts: int = 1
    next_try_at: datetime | None = None


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How far an object is from what was asked of it."""

    converged: bool
    phase: str
    generation: int
    observed_generation: int
    degraded: Failure | None = None


def derive(
    *, generation: int, observed_generation: int, satisfied: bool, phase: str, failure: Failure | None
) -> Conditions:
    """Return the conditions of an object.

    Converged means: the node has seen the latest generation, its state is what was asked, and no failure is
    recorded for that generation. A failure of an older generation is history and not shown.
    """
    current = failure if failure is not None and failure.generation >= generation else None
    return Conditions(
        converged=observed_generation >= generation and satisfied and current is None,
        phase=phase,
        generation=generation,
        observed_generation=observed_generation,
        degraded=current,
    )

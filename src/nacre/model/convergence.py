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
    """What happens next."""
    code: str
    """Stable name of what is wrong, for programs."""
    message: str
    """What is wrong, for people."""
    hint: str
    """What to do about it."""
    generation: int
    """The intent that is not true yet."""
    at: datetime
    """When it was first seen."""
    attempts: int = 1
    """How often it was tried."""
    next_try_at: datetime | None = None
    """When it is tried again; null if it is not by itself."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """How far an object is from what was asked of it."""

    converged: bool
    """Whether it is what was asked."""
    phase: str
    """What it is doing; `unknown` if its node is out of reach."""
    generation: int
    """The newest intent."""
    observed_generation: int
    """The newest intent that its node has acted on."""
    degraded: Failure | None = None
    """What is wrong, if anything is."""


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

"""Operations: the promise behind a 202. Durable, with progress, an end, and a cancel where that makes sense. Pure."""

from enum import StrEnum


class OperationState(StrEnum):
    """How an operation stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SUPERSEDED = "superseded"  # a newer intent took its place
    CANCELLED = "cancelled"


TERMINAL = frozenset(
    {OperationState.SUCCEEDED, OperationState.FAILED, OperationState.SUPERSEDED, OperationState.CANCELLED}
)

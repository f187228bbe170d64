"""What a bench reports."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Result:
    """One figure. `reference` is what it is to be held against: a limit, or the other side of a ratio."""

    name: str
    value: float
    unit: str
    better: str
    reference: str
    samples: list[float]
    how: str

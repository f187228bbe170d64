"""How long to wait before trying again: longer each time, never all at once. Pure: randomness is passed in."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Backoff:
    """Waits that double from `first` to `cap` seconds, each drawn from the upper half of its range.

    The spread keeps a thousand agents that lost the same server from coming back in step.
    """

    first: float
    cap: float
    random: Callable[[], float]
    """Returns a number from 0 up to 1."""
    factor: float = 2.0
    attempts: int = field(default=0, init=False)

    def next(self, cap: float | None = None) -> float:
        """Return how many seconds to wait now; `cap` is a lower ceiling for this one wait."""
        # The exponent is bounded because a float overflows long before an outage of a year ends.
        ceiling = min(self.cap if cap is None else cap, self.first * self.factor ** min(self.attempts, 64))
        self.attempts += 1
        return ceiling * (0.5 + 0.5 * self.random())

    def reset(self) -> None:
        """Start over: what was tried has worked for a while."""
        self.attempts = 0

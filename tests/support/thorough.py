"""How much of what could be tried is tried: `NACRE_EVERY_STEP=1` has tests take every step and every seed they know.

Without it they take some, so that the whole suite stays well below an hour.
"""

import os

EVERY_STEP = bool(os.environ.get("NACRE_EVERY_STEP"))


def seeds(count: int, usual: int = 1) -> range:
    """Return the seeds to be tried: `usual` of `count`."""
    return range(1, 1 + (count if EVERY_STEP else usual))

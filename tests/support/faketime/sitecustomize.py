"""Loaded by every Python that runs with another wall clock: sleeping works there too.

Where libfaketime 0.9.10 leaves the monotonic clock alone, its clock_nanosleep fails with EINVAL, always. Python's
time.sleep calls that; select does the same and is not touched.
"""

import select
import time


def _sleep(seconds: float) -> None:
    select.select([], [], [], seconds)


time.sleep = _sleep

"""Limits of this process that are set for small programs. Raised by programs with thousands of connections."""

import gc
import resource

_YOUNG = 20_000
"""Objects that may be made before those among them that nobody needs are looked for; Python's default is 700."""


def allow_files() -> int:
    """Allow as many open files as this process may have without asking anybody, and return how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def collect_rarely() -> None:
    """Look for garbage less often, and never among what there is now: for a program that has just been set up.

    With millions of objects that live as long as their connections, looking at all of them takes most of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 50)

"""Limits of this process that systems set low for interactive use. Raised by programs with thousands of connections."""

import resource


def allow_files() -> int:
    """Allow as many open files as this process may have without asking anybody, and return how many those are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard

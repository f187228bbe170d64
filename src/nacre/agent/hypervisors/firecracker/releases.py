"""Which release of Firecracker knows what. Pure. Used by `config`, `offer` and the driver.

Firecracker refuses what it does not know, so nothing may be sent to a release that is older than its feature.
"""

import re

Release = tuple[int, int, int]
Since = tuple[int, int]
"""The release that a feature came with."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")


VHOST_USER_DISKS: Since = (1, 6)
HUGE_PAGES: Since = (1, 7)
VM_GENERATION: Since = (1, 8)
"""A guest is told that it was restored, so that it draws new random numbers."""
OTHER_TAPS: Since = (1, 12)
"""A snapshot can be loaded with other taps than it was made with."""
MEMORY_HOTPLUG: Since = (1, 14)
PAGE_REPORTING: Since = (1, 14)
PCI_HOTPLUG: Since = (1, 16)
CLOCK: Since = (1, 16)
"""A loaded guest gets the time of the host."""
MTU: Since = (1, 16)
TRANSPARENT_PAGES: Since = (1, 17)
BZIMAGE: Since = (1, 17)
"""Kernels as distributions ship them; before, they must be unpacked (vmlinux)."""

OLDEST: Release = (1, 5, 0)
"""Before it, what its process logs when it ends is not what the driver looks for."""


def parse(text: str) -> Release | None:
    """Read a version as Firecracker prints it; None if there is none."""
    found = _VERSION.search(text)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def knows(release: Release, feature: Since) -> bool:
    """Whether a release has a feature."""
    return release[:2] >= feature


def name(feature: Since) -> str:
    """The release that brought a feature, for people."""
    return f"Firecracker {feature[0]}.{feature[1]}"


def text(release: Release) -> str:
    """A release as people write it."""
    return ".".join(str(part) for part in release)

"""Many machines at once onto as few nodes as possible, or spread as widely as possible. Pure."""

from enum import StrEnum


class Packing(StrEnum):
    """How a group of machines is laid out."""

    FIRST_FIT_DECREASING = "first-fit-decreasing"  # largest first, each onto the first node in order that fits
    BEST_FIT = "best-fit"  # largest first, each onto the fullest node that fits
    SPREAD_NODES = "spread-nodes"  # as few as possible on one node
    SPREAD_ZONES = "spread-zones"
    SPREAD_REGIONS = "spread-regions"

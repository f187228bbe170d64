"""Bodies of /v1/capabilities: what the hypervisors of the platform's nodes can do for machines."""

from nacre.model.capabilities import Level
from nacre.schema.common import Out


class Reason(Out, frozen=True, kw_only=True):
    """Why something is not there, and on how many nodes."""

    note: str
    """Why, for people."""
    nodes: int
    """Nodes of which that is true."""


class CapabilityOut(Out, frozen=True, kw_only=True):
    """One thing that a hypervisor can do, or cannot."""

    capability: str
    """Its name, such as `boot.uefi`."""
    level: Level
    """How well the best node does it."""
    nodes: int
    """On how many nodes it can be done."""
    note: str = ""
    """What it takes, or why it is not done better."""
    missing: tuple[Reason, ...] = ()
    """Why not on the others; most frequent first."""


class HypervisorOut(Out, frozen=True, kw_only=True):
    """A hypervisor, on all nodes that know it."""

    name: str
    """As in `hypervisor` of a machine."""
    nodes: int
    """Nodes whose agent uses it."""
    available: int
    """Nodes of these on which it works."""
    versions: tuple[str, ...]
    """Versions that are installed."""
    unavailable: tuple[Reason, ...] = ()
    """Why it does not work on the others."""
    capabilities: tuple[CapabilityOut, ...] = ()
    """What it can do, in the order of the reference, with what it cannot do anywhere at its place."""


class CapabilitiesOut(Out, frozen=True, kw_only=True):
    """What machines may ask for."""

    hypervisors: tuple[HypervisorOut, ...]
    """By name."""

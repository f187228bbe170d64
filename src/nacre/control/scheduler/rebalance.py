"""Moves that make the load of nodes more even. Pure."""

from dataclasses import dataclass

from nacre.control.scheduler.values import Resident
from nacre.model.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One move. They are proposed in the order in which they can be carried out."""

    resident: Resident
    source: NodeId
    target: NodeId
    gain: float
    """How much less loaded its node is for the machine, 0 to 1."""
    before: float
    """The spread of load over the fleet before this move: the standard deviation of the loads of its nodes."""
    after: float

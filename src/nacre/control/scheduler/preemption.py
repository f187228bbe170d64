"""Room for a machine that fits nowhere, made by machines of lower priority that may be stopped for it. Pure."""

from dataclasses import dataclass

from nacre.control.scheduler.values import Resident
from nacre.model.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class Preemption:
    """The node that can take the machine once `victims` have left it, least important first."""

    node: NodeId
    victims: tuple[Resident, ...]

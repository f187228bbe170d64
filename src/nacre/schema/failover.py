"""Bodies of /v1/failover: nodes that were lost, and what of theirs is started elsewhere."""

from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import NodeState
from nacre.schema.common import Body, Out


class LostNode(Out, frozen=True, kw_only=True):
    """A node that is not heard and has machines to be started elsewhere."""

    id: NodeId
    """Its id, which never changes."""
    name: str
    """Its name."""
    state: NodeState
    """Where it is in its life."""
    vms: int
    """How many machines wait for it, or for their turn to be started elsewhere."""
    silent_s: float
    """For how long it has surely not renewed its lease. Counted anew when a control plane starts."""
    left_s: float
    """For how long its lease may still last; 0 once it has surely ended."""
    held: bool
    """Whether it is not given up although its lease has ended, because so many nodes fell silent at once."""
    lost_at_once: int
    """How many nodes fell silent when it did."""
    of: int
    """How many were at work before that."""


class WaitingVm(Out, frozen=True, kw_only=True):
    """A machine whose turn to be started elsewhere comes."""

    id: VmId
    """Its id, which never changes."""
    name: str
    """Its name."""
    priority: int
    """Higher goes first."""
    node: NodeId
    """Where it was."""


class FailoverOut(Out, frozen=True, kw_only=True):
    """How it stands with lost nodes, as the replica that answers has counted."""

    held: bool
    """Whether any node is held back."""
    max_share: float
    """More than this share of the nodes at work lost at once is held back."""
    per_s: float
    """How many machines are started elsewhere per second."""
    nodes: list[LostNode]
    """Nodes that are lost."""
    waiting: int
    """How many machines of nodes that were given up wait for their turn."""
    queue: list[WaitingVm]
    """The first hundred of them, in their order."""


class FailoverConfirm(Body, frozen=True, kw_only=True):
    """An operator's word that a node is lost."""

    node: str
    """Its name or id."""
    dead: bool = False
    """It is certainly switched off: do not wait for its lease to end. If it is not, machines may run twice."""

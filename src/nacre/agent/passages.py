"""What to do next about a machine that goes to another node or comes from one while it runs. Used by the planner.

Pure. The rules: a machine of which all has been sent does not run here until the order is withdrawn, which a newer
intent says and nothing else; what has come from elsewhere does not run here before the intent says that it belongs here
by that very stream.
"""

from dataclasses import dataclass

from nacre.agent.steps import (
    NOTHING,
    Await,
    Recall,
    Receive,
    Recollect,
    Reject,
    Send,
    Step,
)
from nacre.agent.vms.presence import Presence
from nacre.model.arrivals import VmArrival
from nacre.model.ids import StreamId
from nacre.model.migrations import ArrivalState
from nacre.model.vms import Desired, VmIntent


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """How a machine stands that comes or goes."""

    sending: StreamId | None = None
    """The stream by which it is being sent, or was."""
    sent: bool = False
    """All of it has left."""
    astray: bool = False
    """An earlier agent sent it, and what has become of that is not known yet."""
    arriving: StreamId | None = None
    """The stream by which it comes; None if it belongs here."""
    arrival: ArrivalState | None = None
    """How far that is; None if nobody waits for it yet."""
    offered: bool = False
    """The other node is there and waits for an answer."""


NOWHERE = Crossing()


def coming(
    told: VmIntent | None, here: Crossing, presence: Presence, arrival: VmArrival | None, *, synced: bool
) -> Step | None:
    """Return what is next for a machine that does not belong here yet; None if it does."""
    if here.arriving is None or (told is not None and told.arrived_by == here.arriving):
        return None
    if presence is Presence.UNKNOWN:
        return None  # it is looked for first, as every other
    if told is not None or arrival is None or arrival.stream != here.arriving:
        return Reject() if synced else NOTHING
    if here.arrival is None:
        return Await(arrival)
    return Receive() if here.offered else NOTHING


def going(intent: VmIntent, here: Crossing, presence: Presence) -> Step | None:
    """Return what is next for a machine that is sent, or is to be; None if that says nothing about it."""
    order = intent.outgoing
    if here.sending is not None:
        if order is None or order.stream != here.sending:
            return Recall()
        if here.astray:
            return Recollect()
        if here.sent or presence is not Presence.NONE:
            return NOTHING
        return None  # its process has died before it had left: it is started here as after any crash
    if order is not None and intent.desired is Desired.RUNNING and presence is Presence.RUNNING:
        return Send(intent)
    return None

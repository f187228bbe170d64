"""Trouble for a fleet: what is killed, stopped, cut or set wrong, when, and for how long. From a seed, always the same.

`plan` is pure. `Troublemaker` carries a plan out on the hosts of a lab and undoes every part of it again.
"""

import contextlib
import heapq
import itertools
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from support.multihost import Fleet, Node


class Kind(StrEnum):
    """What happens to what."""

    AGENT_KILLED = "agent-killed"
    AGENT_STOPPED = "agent-stopped"
    GUEST_KILLED = "guest-killed"
    GUARD_KILLED = "guard-killed"
    GUARD_STOPPED = "guard-stopped"
    CONTROL_CUT = "control-cut"  # the witness still hears the node's guests
    CONTROL_CUT_IN = "control-cut-in"
    CONTROL_CUT_OUT = "control-cut-out"
    ISOLATED = "isolated"  # every network of the node
    POWER_OFF = "power-off"
    CLOCK_JUMPED = "clock-jumped"
    REPLICA_KILLED = "replica-killed"
    REPLICA_STOPPED = "replica-stopped"
    REPLICA_CUT = "replica-cut"


WEIGHTS = {
    Kind.AGENT_KILLED: 4,
    Kind.AGENT_STOPPED: 4,
    Kind.GUEST_KILLED: 3,
    Kind.GUARD_KILLED: 2,
    Kind.CONTROL_CUT: 4,
    Kind.CONTROL_CUT_IN: 1,
    Kind.CONTROL_CUT_OUT: 1,
    Kind.ISOLATED: 1,
    Kind.POWER_OFF: 2,
    Kind.CLOCK_JUMPED: 2,
    Kind.REPLICA_KILLED: 3,
    Kind.REPLICA_STOPPED: 2,
    Kind.REPLICA_CUT: 1,
}
_REPLICAS = frozenset({Kind.REPLICA_KILLED, Kind.REPLICA_STOPPED, Kind.REPLICA_CUT})
_AT_ONCE = frozenset({Kind.GUEST_KILLED, Kind.GUARD_KILLED})
_OF_AGENT = frozenset({Kind.AGENT_KILLED, Kind.AGENT_STOPPED})
_OF_LINK = frozenset({Kind.CONTROL_CUT, Kind.CONTROL_CUT_IN, Kind.CONTROL_CUT_OUT, Kind.ISOLATED})
LOSSES = (Kind.POWER_OFF, Kind.CONTROL_CUT, Kind.AGENT_STOPPED, Kind.AGENT_KILLED, Kind.CONTROL_CUT_IN)
"""What makes a node lose its lease if it lasts."""
LONGEST_S = 20.0
JUMPS = ("+2h", "-2h", "+40s", "-40s", "+9d")


@dataclass(frozen=True)
class Trouble:
    """One thing that goes wrong: when (seconds from the start), what, to whom, for how long."""

    at: float
    kind: Kind
    target: int
    """Which node or replica, from 0."""
    draw: float
    """Chooses among what is there when it happens, 0 to 1."""
    lasts: float


def plan(seed: int, seconds: float, *, nodes: int, replicas: int, lull_every: float, lull: float) -> list[Trouble]:
    """Return what goes wrong in `seconds`. Nothing happens twice at once to the same part.

    Now and then there is a lull. After it, when all is well, a guard is stopped, for a third of `lull` at most: a guard
    and its node's way to a lease must not fail both for as long as a lease, which is the limit of what Nacre promises.
    Then a node is lost for longer than `lull`, which is to be more than a lease, while the others are well. Then
    everything happens at once again.
    """
    chance = random.Random(seed)
    found: list[Trouble] = []
    busy: dict[str, float] = {}
    at, next_lull = 0.0, 0.0
    while at < seconds:
        if at >= next_lull:
            at = max([at, *busy.values()]) + (lull if found else 0.0)
            for kind, least, most in (
                (Kind.GUARD_STOPPED, 0.3, lull / 3),
                (chance.choice(LOSSES), lull, LONGEST_S),
            ):
                lasts = chance.uniform(least, most)
                found.append(Trouble(at, kind, chance.randrange(nodes), chance.random(), lasts))
                at += lasts
            next_lull = at + lull_every
        at += chance.uniform(0.5, 5.0)
        kind = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        target = chance.randrange(replicas if kind in _REPLICAS else nodes)
        draw = chance.random()
        lasts = 0.0 if kind in _AT_ONCE else chance.uniform(1.0, LONGEST_S)
        parts = _parts(kind, target)
        if all(busy.get(part, 0.0) <= at for part in parts):
            busy |= dict.fromkeys(parts, at + lasts)
            found.append(Trouble(at, kind, target, draw, lasts))
    return [trouble for trouble in found if trouble.at < seconds]


def _parts(kind: Kind, target: int) -> list[str]:
    """What is busy while this lasts."""
    if kind in _REPLICAS:
        return [f"replica-{target}"]
    if kind is Kind.POWER_OFF:
        return [f"agent-{target}", f"guests-{target}", f"link-{target}"]
    if kind in _OF_AGENT:
        return [f"agent-{target}"]
    if kind in _OF_LINK:
        return [f"link-{target}"]
    return [f"clock-{target}" if kind is Kind.CLOCK_JUMPED else f"guests-{target}"]


class Troublemaker:
    """Carries out a plan. `run` returns when all of it has happened and been undone."""

    def __init__(self, cloud: Fleet, troubles: list[Trouble]) -> None:
        self._cloud = cloud
        self._troubles = troubles
        self.done: dict[Kind, int] = dict.fromkeys(Kind, 0)

    def run(self, *, still: Callable[[], bool] = lambda: True) -> None:
        """Until the plan is through, or `still` says no more; then everything is undone."""
        began = time.monotonic()
        numbers = itertools.count()
        coming: list[tuple[float, int, Trouble | Callable[[], None]]] = [
            (trouble.at, next(numbers), trouble) for trouble in self._troubles
        ]
        heapq.heapify(coming)
        while coming:
            at, _, what = heapq.heappop(coming)
            if isinstance(what, Trouble):
                self._wait(began + at, still)
                if not still():
                    continue
                undo = self._cause(what)
                heapq.heappush(coming, (at + what.lasts, next(numbers), undo))
            else:
                self._wait(began + at, still)
                what()

    @staticmethod
    def _wait(until: float, still: Callable[[], bool]) -> None:
        while still() and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))

    def _cause(self, trouble: Trouble) -> Callable[[], None]:
        """Let it happen; return what ends it."""
        note = f"{trouble.at:7.2f} s  {trouble.kind} of {trouble.target} for {trouble.lasts:.1f} s"
        if trouble.kind in _REPLICAS:
            undo = self._to_replica(trouble)
        else:
            undo = self._to_node(trouble, list(self._cloud.nodes.values())[trouble.target])
        print(note if undo else f"{note}: nothing there", flush=True)
        if undo is not None:
            self.done[trouble.kind] += 1
        return undo or (lambda: None)

    def _to_replica(self, trouble: Trouble) -> Callable[[], None] | None:
        replica = self._cloud.controls[trouble.target]
        if trouble.kind is Kind.REPLICA_KILLED:
            replica.kill()
            return replica.start
        if trouble.kind is Kind.REPLICA_STOPPED:
            os.kill(replica.pid, signal.SIGSTOP)
            return lambda: os.kill(replica.pid, signal.SIGCONT)
        host = self._cloud.lab.hosts[f"c{trouble.target}"]
        host.cut("control")
        return host.heal

    def _to_node(self, trouble: Trouble, node: Node) -> Callable[[], None] | None:
        match trouble.kind:
            case Kind.AGENT_KILLED:
                node.agent.kill()
                return node.agent.start
            case Kind.AGENT_STOPPED:
                node.signal(signal.SIGSTOP)
                return lambda: node.signal(signal.SIGCONT)
            case Kind.GUEST_KILLED:
                return _signalled(_chosen(_guests(node), trouble.draw), signal.SIGKILL)
            case Kind.GUARD_KILLED:
                return _signalled(_chosen(node.guards(), trouble.draw), signal.SIGKILL)
            case Kind.GUARD_STOPPED:
                return _signalled(_chosen(node.guards(), trouble.draw), signal.SIGSTOP, then=signal.SIGCONT)
            case Kind.POWER_OFF:
                node.power_off()
                return node.power_on
            case Kind.CLOCK_JUMPED:
                node.clock.jump(JUMPS[int(trouble.draw * len(JUMPS))])
                return lambda: node.clock.jump("+0")
            case Kind.ISOLATED:
                node.host.cut("control")
                node.host.cut("data")
            case Kind.CONTROL_CUT_IN:
                node.host.cut("control", "in")
            case Kind.CONTROL_CUT_OUT:
                node.host.cut("control", "out")
            case _:
                node.host.cut("control")
        return node.host.heal


def _guests(node: Node) -> list[int]:
    return sorted(pid for pids in node.guests().values() for pid in pids)


def _chosen(pids: list[int], draw: float) -> int | None:
    return sorted(pids)[int(draw * len(pids))] if pids else None


def _signalled(
    pid: int | None, number: signal.Signals, *, then: signal.Signals | None = None
) -> Callable[[], None] | None:
    """Send a signal; return what ends the trouble, None if there was nobody to send it to."""
    if pid is None:
        return None

    def undo() -> None:
        with contextlib.suppress(ProcessLookupError):
            if then is not None:
                os.kill(pid, then)

    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return None
    return undo

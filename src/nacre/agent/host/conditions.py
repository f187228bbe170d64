"""What is wrong with this node, and since when. Called through `agent/reporting` for every heartbeat.

`judge` is pure; `Conditions` remembers when each came up.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nacre.lib.clock import Clock
from nacre.model.nodes import Capacity, Condition, ConditionKind, HypervisorInfo, Usage
from nacre.model.units import GIB, MIB, format_size

_MEMORY_SHARE, _MEMORY_LEAST = 0.05, 256 * MIB
_DISK_SHARE, _DISK_LEAST = 0.05, 1 * GIB


@dataclass(frozen=True, kw_only=True)
class Signs:
    """All that the judgement follows from."""

    capacity: Capacity
    usage: Usage
    hypervisors: Sequence[HypervisorInfo]
    network: str = ""
    """Why the host is off the network; empty if it is on it."""
    refused: int = 0
    """How many machines were to be torn down at once, and were not."""
    tenures: tuple[int, int] | None = None
    """The node's tenure now and a higher one that it had before; None if it has only grown, as it should."""


def judge(signs: Signs) -> Iterator[tuple[ConditionKind, str, str]]:
    """Yield what is wrong: kind, message, hint."""
    memory = signs.capacity.memory_bytes - signs.usage.memory_bytes
    if memory < max(_MEMORY_LEAST, _MEMORY_SHARE * signs.capacity.memory_bytes):
        yield (
            ConditionKind.MEMORY_PRESSURE,
            f"only {format_size(max(0, memory))} of memory are free",
            "stop or move machines, or find out what else uses memory on the node",
        )
    disk = signs.capacity.disk_bytes - signs.usage.disk_bytes
    if disk < min(_DISK_LEAST, _DISK_SHARE * signs.capacity.disk_bytes):
        yield (
            ConditionKind.DISK_PRESSURE,
            f"only {format_size(max(0, disk))} of disk are free",
            "delete what is not needed on the node, or give it more storage",
        )
    if signs.network:
        yield (
            ConditionKind.NETWORK_UNAVAILABLE,
            signs.network,
            "look at the node's cables, interfaces and routes: `ip link`, `ip route`",
        )
    missing = [each for each in signs.hypervisors if not each.available]
    if missing:
        yield (
            ConditionKind.HYPERVISOR_UNAVAILABLE,
            "; ".join(f"{each.name}: {each.reason}" for each in missing),
            "install it on the node, or take it out of `hypervisors` in the agent's configuration",
        )
    if signs.refused:
        yield (
            ConditionKind.TEARDOWN_REFUSED,
            f"{signs.refused} machines were to be torn down at once, which looks like a mistake; they were left alone",
            "if it is meant, say `nacre node allow-teardown` for this node; if not, was a wrong database restored?",
        )
    if signs.tenures is not None:
        now, before = signs.tenures
        yield (
            ConditionKind.TENURE_WENT_BACK,
            f"the control plane counts tenure {now} of the node after {before}, so it has forgotten what it decided",
            "was an old database restored? look for machines that have moved since then and may run twice",
        )


class Conditions:
    """Conditions over time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._current: dict[ConditionKind, Condition] = {}

    def update(self, signs: Signs) -> tuple[Condition, ...]:
        """Return what is wrong now; what was wrong before keeps its beginning."""
        now = self._clock.now()
        self._current = {
            kind: Condition(
                kind=kind,
                message=message,
                hint=hint,
                since=self._current[kind].since if kind in self._current else now,
            )
            for kind, message, hint in judge(signs)
        }
        return tuple(self._current.values())

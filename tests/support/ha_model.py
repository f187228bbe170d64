"""What the parts of the model of HA restart share: its rules, its pace, clocks, desired states. See `ha_world`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nacre.model.ids import VmId

if TYPE_CHECKING:
    from support.ha_world import World

LEASE_S, RENEW_S, HEARTBEAT_S, OFFLINE_S, RESYNC_S = 35.0, 2.0, 5.0, 15.0, 30.0


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules of the design, each of which a test may break."""

    lease_runs_from_asking: bool = True
    margin: bool = True
    counted_after_reading: bool = True
    renewals_checked_when_giving_up: bool = True
    granted_for_the_tenure_only: bool = True
    a_grant_ends_being_given_up: bool = True
    taken_only_while_given_up: bool = True
    taking_ends_the_tenure: bool = True
    guards_freeze: bool = True
    guards_check_before_starting: bool = True


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long things take at most, in seconds. Slow steps widen the gaps that rules close, quick ones pass margins."""

    round_s: float = 1.0
    """About how often a replica looks."""
    read_s: float = 0.3
    act_s: float = 0.2
    """From a decision to its transaction."""
    place_s: float = 1.0
    """About how often machines without a node are given one."""
    beat_s: float = 0.5
    """From a heartbeat to its storing."""
    start_s: float = 3.0
    """From a lease to the start of a guard."""


class Clock:
    """A clock that runs a little too fast or too slow."""

    def __init__(self, world: "World", drift: float) -> None:
        self._world = world
        self._rate = 1.0 + drift
        self._offset = world.random.uniform(1000, 9000)

    def now(self) -> float:
        return self._offset + self._rate * self._world.now

    def until(self, at: float) -> float:
        """In how many true seconds this clock shows `at`."""
        return max(0.0, (at - self.now()) / self._rate)


@dataclass
class Told:
    """A desired state."""

    tenure: int
    vms: dict[VmId, int]
    retired: dict[VmId, int]

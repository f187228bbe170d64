"""Silence and turns, on a clock that the test moves."""

import pytest

from nacre.control.reconcilers.failover_counts import Bucket, Counts
from nacre.control.store.node_leases import LeaseRow
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState

NODE = NodeId("node-1")


def row(renewals: int, *, tenure: int = 1, node: NodeId = NODE) -> LeaseRow:
    return LeaseRow(
        id=node, name=node, state=NodeState.READY, tenure=tenure, renewals=renewals, lease_s=35, last_seen_at=None
    )


# Each scenario: when we read (seconds on our clock) and the renewals that we read, None for a round that failed; and
# for how long the node has surely been silent at the end.
SCENARIOS: dict[str, tuple[list[tuple[float, int | None]], float]] = {
    "never read": ([], 0.0),
    "read once": ([(100.0, 7)], 0.0),
    "the same value is counted from its first reading": ([(100.0, 7), (101.0, 7), (104.0, 7)], 4.0),
    "a new value begins anew": ([(100.0, 7), (102.0, 7), (103.0, 8), (105.0, 8)], 2.0),
    "a value that goes back is a new one": ([(100.0, 7), (102.0, 6), (103.0, 6)], 1.0),
    "another replica has granted it meanwhile": ([(100.0, 7), (104.0, 12), (107.0, 12)], 3.0),
    "we stood still": ([(100.0, 7), (104.0, 7), (110.0, 7), (112.0, 7)], 2.0),
    "we stood still for as long as is allowed": ([(100.0, 7), (105.0, 7), (110.0, 7)], 10.0),
    "the database was away": ([(100.0, 7), (103.0, 7), (103.5, None), (104.0, 7), (106.0, 7)], 2.0),
    "we have just started": ([(0.0, 1000)], 0.0),
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_silence(scenario: str) -> None:
    readings, expected = SCENARIOS[scenario]
    counts, now, renewals = Counts(5.0), 0.0, 7
    for at, value in readings:
        now = at
        if value is None:
            counts.restart()
        else:
            renewals = value
            counts.note([row(value)], now)
    assert counts.silence(row(renewals), now) == expected


def test_a_value_that_was_not_the_one_read_is_no_silence() -> None:
    counts = Counts(5.0)
    counts.note([row(7)], 100.0)
    counts.note([row(7)], 104.0)
    assert counts.silence(row(7), 104.0) == 4.0
    assert counts.silence(row(8), 104.0) == 0.0
    assert counts.silence(row(7, tenure=2), 104.0) == 0.0
    assert counts.silence(row(7, node=NodeId("node-2")), 104.0) == 0.0


def test_nothing_is_known_between_rounds_that_do_not_come() -> None:
    counts = Counts(5.0)
    counts.note([row(7)], 100.0)
    assert counts.silence(row(7), 105.0) == 5.0
    assert counts.silence(row(7), 105.1) == 0.0


def test_a_node_that_is_gone_and_back_begins_anew() -> None:
    counts = Counts(5.0)
    counts.note([row(7)], 100.0)
    counts.note([], 103.0)
    counts.note([row(7)], 104.0)
    assert counts.silence(row(7), 104.0) == 0.0


def taken(bucket: Bucket, now: float) -> int:
    bucket.fill(now)
    count = 0
    while bucket.take():
        count += 1
    return count


def test_machines_have_their_turn_at_the_rate_that_is_set() -> None:
    bucket = Bucket(4.0)
    assert taken(bucket, 100.0) == 1
    assert taken(bucket, 100.125) == 0
    assert bucket.next_s == 0.125
    assert taken(bucket, 100.25) == 1
    assert taken(bucket, 101.0) == 3
    assert taken(bucket, 3600.0) == 4


def test_a_rate_below_one_is_one_every_so_often() -> None:
    bucket = Bucket(0.2)
    turns = [second for second in range(31) if taken(bucket, float(second))]
    assert turns == [0, 5, 10, 15, 20, 25, 30]

"""When what a node runs may run elsewhere: every verdict, without a database."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from nacre.control.services import failover_rules as rules
from nacre.control.services.failover_rules import Silent
from nacre.model.ids import NodeId

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("lease_s", [5, 20, 35, 60, 300, 3600])
def test_the_wait_outlasts_a_lease_by_any_clocks_that_are_no_worse_than_allowed(lease_s: float) -> None:
    on_a_slow_node = lease_s / (1 - rules.DRIFT)
    on_a_fast_clock_of_ours = rules.wait_s(lease_s) / (1 + rules.DRIFT)
    assert on_a_fast_clock_of_ours - on_a_slow_node > 0.02


def test_the_wait_of_the_default_lease_is_as_documented() -> None:
    assert rules.wait_s(35) == 36.5


LOOSE = SimpleNamespace(exited_at=None, guarded=False)
HELD = SimpleNamespace(exited_at=None, guarded=True)
OVER = SimpleNamespace(exited_at=NOW, guarded=False)


@pytest.mark.parametrize(
    ("ha_since", "observed", "run", "guarded"),
    [
        (0, 5, HELD, False),  # it is not wanted
        (1, 0, None, True),  # no node has known it without, and this one has not said a word
        (1, 3, HELD, True),
        (1, 3, LOOSE, False),  # started by an agent without guards
        (1, 3, OVER, True),
        (4, 0, None, False),  # told without, and then with; it may have started before
        (4, 3, None, False),
        (4, 3, OVER, False),
        (4, 3, HELD, False),  # from an earlier time with; it may have crashed and started again without since
        (4, 4, None, True),
        (4, 4, OVER, True),
        (4, 5, HELD, True),
        (4, 5, LOOSE, False),  # it runs since before and needs a restart
    ],
)
def test_a_machine_is_guarded_if_every_life_it_may_have_is(ha_since: int, observed: int, run: Any, guarded: bool):
    vm = SimpleNamespace(ha_since=ha_since, observed_generation=observed, run=run)
    assert rules.guarded(cast("rules.Guardable", vm)) is guarded


def nodes(*seconds_ago: float | None) -> list[Silent]:
    return [
        Silent(id=NodeId(f"node-{n}"), last_seen_at=None if ago is None else NOW - timedelta(seconds=ago))
        for n, ago in enumerate(seconds_ago)
    ]


@pytest.mark.parametrize(
    ("silent", "heard", "held"),
    [
        ([30], 1, False),  # one of two
        ([30], 2, False),
        ([30, 28], 1, True),  # two of three
        ([30, 28], 2, False),  # two of four
        ([30, 28, 31], 2, True),  # three of five
        ([30, 28, 31], 3, False),
        ([30], 0, True),  # the only one
        ([30, 29], 0, True),  # all
        ([30, 95], 1, False),  # the other one was lost long before
        ([30, 86400 * 30, 86400 * 20], 1, False),
        ([30, None], 1, False),  # the other one has never been heard
    ],
)
def test_more_than_half_of_the_nodes_at_once_is_rather_the_control_plane(
    silent: list[float | None], heard: int, held: bool
) -> None:
    lost, of = rules.share_lost(NodeId("node-0"), nodes(*silent), heard)
    assert rules.is_mass_loss(lost, of, 0.5) is held


def test_the_share_is_the_operators_to_say() -> None:
    assert not rules.is_mass_loss(2, 3, 0.7)
    assert not rules.is_mass_loss(3, 3, 1.0)
    assert rules.is_mass_loss(2, 5, 0.3)

"""Options about the place of a machine, as people write them."""

import pytest

from nacre.cli.placing import ANYWHERE, Placing, placement
from nacre.errors import InvalidInputError
from nacre.model.placement import (
    AffinityTerm,
    NodePreference,
    Placement,
    SpreadConstraint,
    Strategy,
    TaintEffect,
    Toleration,
    Topology,
)

WEB = {"app": "web"}


def test_every_option_becomes_what_it_says() -> None:
    asked = Placing(
        zone=("a", "b"),
        region=("eu",),
        node_label=("disk=ssd", "rack=r1"),
        tolerate=("gpu", "gpu=big", "batch:prefer-no-schedule"),
        prefer=("disk=ssd,weight=90", "rack=r1"),
        near=("app=db,topology=zone,preferred,weight=10",),
        apart=("app=web", "app=web,tier=front,topology=region"),
        spread=("app=web,max-skew=2,required", "app=web"),
        strategy="best-fit",
    )
    assert placement(asked) == Placement(
        zones=("a", "b"),
        regions=("eu",),
        node_labels={"disk": "ssd", "rack": "r1"},
        tolerations=(
            Toleration(key="gpu"),
            Toleration(key="gpu", value="big"),
            Toleration(key="batch", effect=TaintEffect.PREFER_NO_SCHEDULE),
        ),
        prefer=(NodePreference(labels={"disk": "ssd"}, weight=90), NodePreference(labels={"rack": "r1"})),
        affinity=(AffinityTerm(labels={"app": "db"}, topology=Topology.ZONE, required=False, weight=10),),
        anti_affinity=(
            AffinityTerm(labels=WEB),
            AffinityTerm(labels={**WEB, "tier": "front"}, topology=Topology.REGION),
        ),
        spread=(
            SpreadConstraint(labels=WEB, max_skew=2, required=True),
            SpreadConstraint(labels=WEB),
        ),
        strategy=Strategy.BEST_FIT,
    )


def test_what_is_left_out_stays_as_it_was() -> None:
    before = Placement(zones=("a",), strategy=Strategy.RANDOM)
    assert placement(ANYWHERE, before) == before
    assert placement(Placing(zone=("b",)), before) == Placement(zones=("b",), strategy=Strategy.RANDOM)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Placing(near=("topology=zone",)), "near"),
        (Placing(near=("app=web,topology=rack",)), "near"),
        (Placing(apart=("web",)), "apart"),
        (Placing(apart=("app=web,max-skew=2",)), "apart"),
        (Placing(apart=("app=web,preferred,required",)), "apart"),
        (Placing(spread=("app=web,max-skew=0",)), "spread"),
        (Placing(prefer=("disk=ssd,weight=101",)), "prefer"),
        (Placing(prefer=("disk=ssd,preferred",)), "prefer"),
        (Placing(tolerate=("=x",)), "tolerate"),
        (Placing(tolerate=("gpu:no-execute",)), "tolerate"),
        (Placing(node_label=("ssd",)), "node-label"),
        (Placing(node_label=("a b=c",)), "node-label"),
    ],
)
def test_what_is_wrong_is_named_by_its_option(wrong: Placing, field: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        placement(wrong)
    assert raised.value.field == field
    assert raised.value.hint


@pytest.mark.parametrize("number", [-1, 1001])
def test_a_priority_has_limits(number: int) -> None:
    with pytest.raises(InvalidInputError, match="is no priority"):
        assert Placing(priority=number).checked_priority

"""What is wrong with a node, and since when."""

from dataclasses import replace
from datetime import timedelta

from nacre.agent.host import inventory
from nacre.agent.host.conditions import Conditions, Signs, judge
from nacre.lib.clock import ManualClock
from nacre.model.nodes import Capacity, ConditionKind, HypervisorInfo, Usage
from nacre.model.units import GIB, MIB

WELL = Signs(
    capacity=Capacity(cpus=2, memory_bytes=8 * GIB, disk_bytes=100 * GIB),
    usage=Usage(load1=0.1, memory_bytes=2 * GIB, disk_bytes=10 * GIB),
    hypervisors=(HypervisorInfo(name="qemu", available=True),),
)


def kinds(signs: Signs) -> set[ConditionKind]:
    return {kind for kind, _, hint in judge(signs) if hint}


def test_a_node_that_is_well_has_no_conditions():
    assert kinds(WELL) == set()


def test_each_thing_that_is_wrong_is_said_with_a_hint():
    usage = WELL.usage
    full = replace(WELL, usage=Usage(load1=0, memory_bytes=usage.memory_bytes, disk_bytes=100 * GIB - 200 * MIB))
    tight = replace(WELL, usage=Usage(load1=0, memory_bytes=8 * GIB - 100 * MIB, disk_bytes=usage.disk_bytes))
    assert kinds(full) == {ConditionKind.DISK_PRESSURE}
    assert kinds(tight) == {ConditionKind.MEMORY_PRESSURE}
    missing = (HypervisorInfo(name="qemu", available=False, reason="not installed"),)
    assert kinds(replace(WELL, hypervisors=missing)) == {ConditionKind.HYPERVISOR_UNAVAILABLE}
    assert kinds(replace(WELL, refused=7)) == {ConditionKind.TEARDOWN_REFUSED}
    assert kinds(replace(WELL, tenures=(3, 4))) == {ConditionKind.TENURE_WENT_BACK}


def test_a_condition_keeps_its_beginning_and_a_new_one_has_its_own():
    clock = ManualClock()
    conditions = Conditions(clock)
    began = clock.now()
    bad = replace(WELL, refused=7)
    assert conditions.update(bad)[0].since == began
    clock.advance(10)
    assert conditions.update(bad)[0].since == began
    assert conditions.update(WELL) == ()
    assert conditions.update(bad)[0].since == began + timedelta(seconds=10)


def test_facts_of_this_host_are_there_and_do_not_change_by_themselves(tmp_path):
    facts = inventory.facts(tmp_path, (), labels={"a": "b"}, region="r", zone="z")
    assert facts == inventory.facts(tmp_path, (), labels={"a": "b"}, region="r", zone="z")
    assert facts.capacity.cpus >= 1
    assert facts.capacity.memory_bytes > 64 * MIB
    assert facts.boot_id
    usage = inventory.usage(tmp_path)
    assert 0 < usage.memory_bytes < facts.capacity.memory_bytes

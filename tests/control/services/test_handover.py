"""Of a machine that moves while it runs never two run, and never none for ever, in whatever order things happen."""

import random
from collections.abc import Callable

import pytest

from nacre.agent import volume_users
from nacre.model.moves import MOVE_ENDS, MoveState
from nacre.model.vms import Desired
from support.handover import HELD, SENT, A, B, World

WALKS = 100
STEPS = 160


def turns(world: World, *, troubles: bool, users: bool) -> list[Callable[[], None]]:
    """What can happen next, the ordinary more often, and in some worlds much more often."""
    often = world.chance.choice([1, 4, 12])
    each: list[Callable[[], None]] = []
    for agent in (world.a, world.b):
        each += 4 * [lambda a=agent: world.sync(a), lambda a=agent: world.report(a)]
        each += 6 * [lambda a=agent: world.work(a), lambda a=agent: world.watch(a)]
        each += 2 * [lambda a=agent: world.start_agent(a), lambda a=agent: world.change_volume(a)]
    each += 6 * [world.control, world.flow] + [lambda: world.later(3)]
    each *= often
    if troubles:
        each += [world.cut, lambda: world.cut(at_the_end=True), lambda: world.later(90), world.fail_over]
        each += [lambda a=agent: world.kill_agent(a) for agent in (world.a, world.b)]
        each += [lambda: world.kill_process(world.chance.choice([world.a, world.b]))]
    if users:
        each += [lambda: world.ask(Desired.RUNNING), lambda: world.ask(Desired.STOPPED), world.abort]
        each += [lambda: world.ask(Desired.PAUSED), lambda: world.ask(Desired.RUNNING, reboot=True)]
    return each


def walk(seed: int, *, troubles: bool, users: bool) -> World:
    world = World(random.Random(seed))
    every = turns(world, troubles=troubles, users=users)
    for _ in range(STEPS):
        world.chance.choice(every)()
        world.check()
    return world


def settled(world: World) -> None:
    """After the last trouble: the move ends, and the machine does what is wanted, once."""
    world.calm()
    assert world.move.state in MOVE_ENDS, world.log
    assert world.running() == ([world.vm.node] if world.vm.desired is Desired.RUNNING else []), world.log
    other = world.b if world.vm.node == A else world.a
    assert not other.known, world.log


@pytest.mark.parametrize("block", range(8))
def test_no_order_of_events_lets_it_run_twice_or_never_again(block: int) -> None:
    for seed in range(block * WALKS, (block + 1) * WALKS):
        settled(walk(seed, troubles=seed % 4 != 0, users=seed % 3 == 0))


def test_without_trouble_the_very_same_guest_goes_on_on_the_other_node() -> None:
    for seed in range(WALKS):
        world = walk(seed, troubles=False, users=False)
        settled(world)
        assert (world.move.state, world.vm.node, world.boots) == (MoveState.DONE, B, 1), world.log


def test_the_walks_would_find_a_volume_that_is_changed_while_nobody_knows_where_its_machine_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(volume_users, "is_between", lambda _machine: False)

    def all_walks() -> None:
        for seed in range(WALKS):
            settled(walk(seed, troubles=False, users=False))

    with pytest.raises(AssertionError):
        all_walks()


def until(world: World, there: Callable[[], bool]) -> None:
    """Let everybody work until something is so."""
    for _ in range(200):
        if there():
            return
        for agent in (world.a, world.b):
            for turn in (world.sync, world.work, world.watch, world.report):
                if not there():
                    turn(agent)
        if not there():
            world.control()
        if not there():
            world.flow()
        world.check()
    raise AssertionError(world.log)


@pytest.mark.parametrize("who", ["a", "b"])
def test_an_agent_that_dies_when_all_has_left_and_nothing_was_told_changes_nothing(who: str) -> None:
    world = World(random.Random(0))
    until(world, lambda: world.a.process == SENT)
    world.flow()
    assert world.b.process == HELD
    world.kill_agent(getattr(world, who))
    settled(world)
    assert (world.vm.node, world.boots) == (B, 1)


def test_a_line_that_breaks_when_all_has_left_and_not_all_has_come_leaves_the_guest_at_its_source() -> None:
    world = World(random.Random(0))
    until(world, lambda: world.in_flight is not None)
    world.cut()
    for turn in (world.watch, world.report):
        turn(world.a)  # the source is the faster one to tell
    world.control()
    assert (world.running(), world.move.state) == ([], MoveState.MIGRATING)
    world.abort()
    settled(world)
    assert (world.vm.node, world.boots) == (A, 1)


def test_what_has_come_whole_although_the_source_goes_on_never_runs() -> None:
    world = World(random.Random(0))
    until(world, lambda: world.copying is not None)
    world.cut(at_the_end=True)
    assert (world.running(), world.b.process) == ([A], HELD)
    for turn in (world.watch, world.report, lambda _: world.control(), world.sync, world.work, world.work, world.work):
        turn(world.b)  # the target is the faster one to tell
        world.check()
    assert (world.running(), world.move.state) == ([A], MoveState.MIGRATING)
    world.abort()
    settled(world)
    assert (world.vm.node, world.boots) == (A, 1)

"""Struck at any step of a live move: the guest goes on, once, where it was or where it went, and nothing is left.

Real agents, lines and QEMU. Before the n-th effect of one of both agents it is killed, or its hypervisor is, or a user
takes the move back. `NACRE_EVERY_STEP` has every n tried; without it one of the first five and every fifteenth from it.
"""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.model.ids import NodeId
from nacre.model.moves import MoveState
from support.handover import A, B
from support.pair import Pair, enrolled, pair
from support.struck import pids_under
from support.thorough import EVERY_STEP

pytestmark = [pytest.mark.host, pytest.mark.timeout(1200)]

FIRSTS, STRIDE = (1, 1) if EVERY_STEP else (5, 15)
MOST = 400


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return enrolled(tmp_path_factory.mktemp("identities"))


def steps(offset: int) -> Iterator[int]:
    return itertools.islice(itertools.count(1 + offset % FIRSTS, STRIDE), MOST)


def moved(two: Pair, victim: NodeId, number: int, *, killed: bool) -> None:
    """Begin to move, with one of both agents about to be struck."""
    for node, agent in two.agents.items():
        agent.start(number if node == victim else 0, killed=killed)


def test_a_machine_that_counts_goes_on_on_the_other_node(identities: Path) -> None:
    with pair(identities) as two:
        moved(two, A, 0, killed=False)
        two.run(two.settled, "the move has ended")
        assert (two.control.move.state, two.where) == (MoveState.DONE, B), two.control.move
        two.counts_on()


@pytest.mark.parametrize("victim", [A, B])
def test_an_agent_that_is_killed_at_any_step_of_a_move(identities: Path, victim: NodeId) -> None:
    for number in steps(0 if victim == A else 2):
        with pair(identities) as two:
            moved(two, victim, number, killed=True)
            two.run(lambda: two.struck or two.settled(), "it is killed")  # it is called at once
            killed = bool(two.struck)
            two.run(two.settled, f"the move has ended, after {victim} was killed before {number}: {two.struck}")
            assert two.control.move.state in {MoveState.DONE, MoveState.FAILED}, two.control.move
            two.counts_on()
        if not killed:
            assert number > FIRSTS, two.control.log
            return


@pytest.mark.parametrize("victim", [A, B])
def test_a_move_that_is_taken_back_at_any_step(identities: Path, victim: NodeId) -> None:
    for number in steps(1 if victim == A else 3):
        with pair(identities) as two:
            moved(two, victim, number, killed=False)
            two.run(lambda: two.struck or two.settled(), "it is struck")  # it is called at once
            struck = bool(two.struck)
            two.control.abort()
            two.run(two.settled, f"the move has ended, taken back when {victim} was at {number}: {two.struck}")
            assert two.control.move.state in {MoveState.DONE, MoveState.ABORTED}, two.control.move
            two.counts_on()
        if not struck:
            assert number > FIRSTS, two.control.log
            return


@pytest.mark.parametrize("victim", [A, B])
def test_a_hypervisor_that_is_killed_at_any_step_of_a_move(identities: Path, victim: NodeId) -> None:
    for number in steps(4 if victim == A else 0):
        with pair(identities) as two:
            moved(two, victim, number, killed=False)
            two.run(lambda: two.struck or two.settled(), "it is struck")  # it is called at once
            struck, there = bool(two.struck), pids_under(two.root / victim)
            for pid in there if struck else ():
                os.kill(pid, 9)
            what = f"the move has ended, the process killed when {victim} was at {number}: {two.struck}"
            two.run(lambda two=two: two.settled() and pids_under(two.root), what)  # that it was killed is heard later
            two.counts_on(starts=2 if struck and there else 1)
        if not struck:
            assert number > FIRSTS, two.control.log
            return

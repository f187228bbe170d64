"""What the witness makes of claims: lives, machines that ran twice, silences."""

import pytest

from support.witness import Claim, doubles, gaps, lives


def claims(*heard: tuple[str, str, int, float]) -> list[Claim]:
    return [Claim(*each) for each in heard]


def test_one_boot_is_one_life() -> None:
    (life,) = lives(claims(("a", "x", 0, 1.0), ("a", "x", 1, 1.2), ("a", "x", 2, 1.4)))["a"]
    assert (life.boot, life.first, life.last, life.claims, life.lost) == ("x", 1.0, 1.4, 3, 0)
    assert life.silence == pytest.approx(0.2)


def test_lost_claims_and_the_longest_silence_are_counted() -> None:
    (life,) = lives(claims(("a", "x", 3, 1.0), ("a", "x", 4, 1.2), ("a", "x", 9, 6.2)))["a"]
    assert life.lost == 4
    assert life.silence == pytest.approx(5.0)


def test_lives_are_in_the_order_in_which_they_were_first_seen() -> None:
    found = lives(claims(("a", "z", 0, 1.0), ("b", "q", 0, 1.1), ("a", "y", 0, 2.0)))
    assert [life.boot for life in found["a"]] == ["z", "y"]
    assert [life.boot for life in found["b"]] == ["q"]


def test_a_successor_after_the_end_is_no_double() -> None:
    assert doubles(claims(("a", "x", 0, 1.0), ("a", "x", 1, 1.2), ("a", "y", 0, 9.0), ("a", "y", 1, 9.2))) == []


def test_another_machine_is_no_double() -> None:
    assert doubles(claims(("a", "x", 0, 1.0), ("b", "y", 0, 1.1), ("a", "x", 1, 1.2))) == []


def test_an_older_boot_heard_after_a_newer_one_is_a_double() -> None:
    (double,) = doubles(claims(("a", "x", 0, 1.0), ("a", "y", 0, 2.0), ("a", "x", 5, 2.1), ("a", "x", 6, 2.5)))
    assert (double.machine, double.older, double.newer, double.claims) == ("a", "x", "y", 2)
    assert double.overlap == pytest.approx(0.5)


def test_a_boot_that_comes_back_long_after_two_others_is_a_double_of_both() -> None:
    found = doubles(claims(("a", "x", 0, 1.0), ("a", "y", 0, 2.0), ("a", "z", 0, 3.0), ("a", "x", 1, 60.0)))
    assert [(double.older, double.newer) for double in found] == [("x", "y"), ("x", "z")]


def test_gaps_are_silences_of_a_machine_whatever_its_boot() -> None:
    heard = claims(("a", "x", 0, 1.0), ("b", "q", 0, 3.0), ("a", "x", 1, 1.2), ("a", "y", 0, 7.0))
    assert gaps(heard, "a", longer_than=1.0) == [(1.2, 7.0)]
    assert gaps(heard, "b", longer_than=1.0) == []

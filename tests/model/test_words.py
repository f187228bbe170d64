"""Ids, units, names, labels, states and conditions."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.errors import ConflictError, InvalidInputError
from nacre.lib.clock import ManualClock
from nacre.model import images, nodes
from nacre.model.access import action_allowed, check_action_patterns
from nacre.model.convergence import Failure, FailureClass, derive
from nacre.model.ids import PREFIXES, looks_like_id, make_id
from nacre.model.images import Role, check_roles
from nacre.model.metadata import check_labels, check_name
from nacre.model.units import format_size, parse_duration, parse_size


@given(st.sampled_from(sorted(PREFIXES)), st.binary(min_size=10, max_size=10))
def test_an_id_says_what_it_names(noun: str, random: bytes) -> None:
    text = make_id(noun, ManualClock().now(), random)
    assert text.startswith(PREFIXES[noun] + "-")
    assert looks_like_id(text)
    with pytest.raises(InvalidInputError):
        check_name(text)


def test_ids_sort_by_when_they_were_made() -> None:
    clock = ManualClock()
    earlier = make_id("vm", clock.now(), b"\xff" * 10)
    later = make_id("vm", clock.now() + timedelta(milliseconds=1), b"\x00" * 10)
    assert earlier < later


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 << 20), ("1.5GiB", 3 << 29), ("10 GB", 10**10), ("0B", 0), ("2TiB", 2 << 40)]
)
def test_sizes_are_read_with_their_unit(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["512", "-1GiB", "1e9", "GiB", "", "1 gib", "0.3B", "1XB", "nan", "infGiB"])
def test_what_is_not_a_size_is_refused_with_a_hint(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_size(text)
    assert caught.value.code == "invalid_size"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0B"), (1023, "1023B"), (512 << 20, "512MiB"), (3 << 29, "1.5GiB"), (1 << 60, "1048576TiB")]
)
def test_sizes_are_shown_in_the_largest_binary_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("15m", 900), ("24h", 86400), ("1.5h", 5400), ("250ms", 0.25)]
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["30", "-1s", "", "5 years"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        parse_duration(text)


@pytest.mark.parametrize("name", ["a", "web-1", "0", "a" * 63])
def test_names_are_dns_labels(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "../x", "a" * 64, "a.b", "a b", "ä", "a\n"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidInputError):
        check_name(name)


def test_labels_may_have_a_prefix_and_an_empty_value() -> None:
    labels = {"app": "web", "example.com/tier": "front", "flag": ""}
    assert check_labels(labels) == labels


@pytest.mark.parametrize(
    "labels", [{"": "x"}, {"a b": "x"}, {"a": "x y"}, {"a": "x" * 64}, {"a/b/c": "x"}, {"a": "x\n"}]
)
def test_malformed_labels_are_refused(labels: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError):
        check_labels(labels)


def test_too_many_labels_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="at most"):
        check_labels({f"k{i}": "" for i in range(65)})


def failure(generation: int) -> Failure:
    return Failure(
        failure_class=FailureClass.PERMANENT,
        code="c",
        message="m",
        hint="h",
        generation=generation,
        at=ManualClock().now(),
    )


@pytest.mark.parametrize(
    ("observed", "satisfied", "failed", "converged"),
    [(3, True, None, True), (2, True, None, False), (3, False, None, False), (3, True, 3, False), (3, True, 2, True)],
)
def test_converged_needs_the_newest_generation_the_right_phase_and_no_failure(
    observed: int, satisfied: bool, failed: int | None, converged: bool
) -> None:
    conditions = derive(
        generation=3,
        observed_generation=observed,
        satisfied=satisfied,
        phase="running",
        failure=failure(failed) if failed else None,
    )
    assert conditions.converged is converged
    assert (conditions.degraded is not None) is (failed == 3)


def test_every_state_has_its_moves_and_only_known_states_are_reached() -> None:
    assert set(nodes.MOVES) == set(nodes.NodeState)
    assert set(images.MOVES) == set(images.ImageState)
    for table in (nodes.MOVES, images.MOVES):
        for state, targets in table.items():
            assert state not in targets


def test_an_illegal_move_of_a_node_is_an_error() -> None:
    assert nodes.move(nodes.NodeState.READY, nodes.NodeState.CORDONED) is nodes.NodeState.CORDONED
    assert nodes.move(nodes.NodeState.READY, nodes.NodeState.READY) is nodes.NodeState.READY
    with pytest.raises(ConflictError):
        nodes.move(nodes.NodeState.READY, nodes.NodeState.ENROLLING)


@pytest.mark.parametrize("roles", [[Role.INITRD], [Role.DISK, Role.INITRD], [], [Role.DISK, Role.DISK]])
def test_artifacts_that_cannot_boot_are_refused(roles: list[Role]) -> None:
    with pytest.raises(InvalidInputError):
        check_roles(roles)


@pytest.mark.parametrize("roles", [[Role.DISK], [Role.KERNEL], [Role.KERNEL, Role.INITRD, Role.DISK]])
def test_artifacts_that_can_boot_are_accepted(roles: list[Role]) -> None:
    check_roles(roles)


def test_a_token_is_narrowed_by_its_patterns() -> None:
    assert action_allowed(("vm:*",), "vm:start")
    assert action_allowed(("*:view",), "image:view")
    assert not action_allowed(("vm:*", "*:view"), "image:create")
    assert not action_allowed((), "vm:view")


@pytest.mark.parametrize("pattern", ["vm", "vm:", ":start", "VM:start", "vm:*:x", "v*:start", ""])
def test_malformed_action_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidInputError):
        check_action_patterns((pattern,))

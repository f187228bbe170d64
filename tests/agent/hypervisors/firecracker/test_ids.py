"""Names of ours as ids of Firecracker's, and back."""

import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.hypervisors.firecracker import ids
from nacre.model.ids import VmId, make_id

NAMES = st.text(min_size=1, max_size=40)


@given(NAMES)
def test_every_name_has_an_id_that_firecracker_takes_and_comes_back(name):
    made = ids.device(name)
    assert re.fullmatch(r"[A-Za-z0-9_]+", made)
    assert ids.name(made) == name


@given(NAMES, NAMES)
def test_no_two_names_share_an_id(one, other):
    assert (ids.device(one) == ids.device(other)) == (one == other)


@given(st.text(max_size=20))
def test_what_is_no_id_of_ours_is_refused_and_what_is_one_stands_for_itself(text):
    try:
        name = ids.name(text)
    except ValueError:
        return
    assert ids.device(name) == text


@pytest.mark.parametrize(
    ("name", "device"), [("root", "root"), ("data-1", "data_2d1"), ("a_b", "a_5fb"), ("ä", "_c3_a4")]
)
def test_plain_names_stay_readable(name, device):
    assert ids.device(name) == device


@pytest.mark.parametrize("text", ["", "a-b", "_", "_2", "_zz", "_2D", "_61", "_ff"])
def test_strangers_ids_have_no_name(text):
    with pytest.raises(ValueError):
        ids.name(text)


def test_a_device_without_a_name_is_none():
    with pytest.raises(ValueError, match="has a name"):
        ids.device("")


def test_machines_are_called_by_their_own_ids():
    vm = VmId(make_id("vm", datetime.now(UTC), b"0123456789"))
    assert ids.machine(vm) == vm


@pytest.mark.parametrize("text", ["", "a_b", "a" * 65, "ä", "a b"])
def test_a_machine_that_firecracker_would_not_take_is_refused(text):
    with pytest.raises(ValueError, match="no id for a machine"):
        ids.machine(VmId(text))

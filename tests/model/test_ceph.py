"""Clusters: what is taken for an address, a user and a key, and that a key is not shown."""

import msgspec
import pytest

from nacre.errors import InvalidInputError
from nacre.model.ceph import CephAccess, check_access, check_pool, key_in

KEY = "AQCoMgJrX239HRAAix+2xAXXA9T88NXleONDkQ=="
GOOD = CephAccess(monitors=("10.0.0.1", "mon-2.example.org:6789", "v2:[fd00::1]:3300"), user="nacre", key=KEY)


def test_a_cluster_that_can_be_is_taken():
    assert check_access(GOOD) is GOOD


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"monitors": ("10.0.0.1", "a b")}, "ceph.monitors[1]"),
        ({"monitors": ("10.0.0.1\nkeyring = /etc/shadow",)}, "ceph.monitors[0]"),
        ({"monitors": ("",)}, "ceph.monitors[0]"),
        ({"user": "client nacre"}, "ceph.user"),
        ({"user": "-nacre"}, "ceph.user"),
        ({"key": "secret"}, "ceph.key"),
        ({"key": KEY + "\n[client.admin]"}, "ceph.key"),
        ({"key": ""}, "ceph.key"),
    ],
)
def test_what_cannot_be_is_refused_with_its_field(changes, field):
    with pytest.raises(InvalidInputError) as caught:
        check_access(msgspec.structs.replace(GOOD, **changes))
    assert caught.value.field == field
    assert caught.value.hint
    assert "shadow" not in caught.value.hint


def test_a_key_is_not_shown():
    assert KEY not in repr(GOOD)
    assert KEY not in f"{[GOOD]}"


@pytest.mark.parametrize("name", ["rbd", "nacre.volumes_1"])
def test_a_pool_that_can_be_is_taken(name):
    assert check_pool(name) == name


@pytest.mark.parametrize("name", ["", "/srv", "a/b", "a@b", "--id", "a\n"])
def test_a_pool_that_cannot_be_is_refused(name):
    with pytest.raises(InvalidInputError) as caught:
        check_pool(name)
    assert caught.value.field == "path"


@pytest.mark.parametrize("text", [KEY, KEY + "\n", f'[client.nacre]\n\tkey = {KEY}\n\tcaps mon = "profile rbd"\n'])
def test_a_key_is_found_in_a_file(text):
    assert key_in(text) == KEY

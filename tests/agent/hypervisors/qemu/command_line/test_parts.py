"""Names, places, limits and shapes: small rules that the command line and hot plug share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu.command_line import bus, limits, memory, places, shape, words
from nacre.agent.hypervisors.qemu.command_line.places import uuid_of
from nacre.model.hardware import NO_LIMITS, RateLimits, TokenBucket
from nacre.model.ids import RunId, VmId
from nacre.model.units import MIB
from nacre.model.vms import MachineType


def test_a_machine_has_one_uuid_for_ever_and_none_of_another() -> None:
    one = VmId("vm-01m7ysnyghpha2pa88yjx222cp")
    assert uuid_of(one) == "4b689b41-e35a-5cdb-a0ca-a4a5e48077b1"
    assert uuid_of(VmId("vm-01m7ysnyghpha2pa88yjx222cq")) != uuid_of(one)


def test_each_life_has_a_generation_of_its_own() -> None:
    assert places.generation_of(RunId("run-1")) != places.generation_of(RunId("run-2"))


@given(st.from_regex(r"[a-z][a-z0-9-]{0,62}", fullmatch=True), st.sampled_from(["", "file", "format"]))
def test_block_nodes_have_names_that_qemu_takes(disk: str, part: str) -> None:
    name = places.node_of(disk, part)
    assert 0 < len(name) <= 31
    assert name[0].isalpha()


def test_places_are_told_from_what_qemu_shows() -> None:
    assert bus.place(MachineType.Q35, 12) == {"bus": "port12"}
    assert bus.place_of("port12", 0) == 12
    assert bus.place(MachineType.PC, 3) == {"bus": "pci.0", "addr": "0xe"}
    assert bus.place_of("", 0xE) == 3
    assert bus.place_of("", 2) is None
    assert bus.first_free([0, 1, 3]) == 2


@pytest.mark.parametrize(
    ("bucket", "average", "most"),
    [
        (TokenBucket(size=1000), 1000, 1000),
        (TokenBucket(size=1000, burst=500), 1000, 1500),
        (TokenBucket(size=1000, refill_ms=100), 10_000, 0),
        (TokenBucket(size=1000, refill_ms=10_000), 100, 1000),
        (TokenBucket(size=1 << 50, refill_ms=100), 10**15, 10**15),
    ],
)
def test_a_bucket_becomes_a_rate_and_a_room(bucket: TokenBucket, average: int, most: int) -> None:
    group = limits.group(RateLimits(bandwidth=bucket))
    assert group == {"bps-total": average, "bps-total-max": most, "iops-total": 0, "iops-total-max": 0}
    live = limits.throttle(RateLimits(operations=bucket))
    assert (live["iops"], live.get("iops_max", 0), live["bps"]) == (average, most, 0)


def test_no_limits_lift_what_was_limited() -> None:
    assert set(limits.throttle(NO_LIMITS).values()) == {0}
    assert set(limits.group(NO_LIMITS).values()) == {0}


def test_lists_of_linux_are_read() -> None:
    assert memory.numbers("0-2,8,1") == [0, 1, 2, 8]


def test_words_say_on_and_off_and_double_commas() -> None:
    assert words.joined("x", {"a": True, "b": False, "c": "1,2", "d": [3, 4], "e": [{"str": "f"}]}) == (
        "x,a=on,b=off,c=1,,2,d=3,d=4,e=f"
    )


def test_a_shape_is_read_again_and_another_one_refused() -> None:
    made = shape.Shape(board="pc-q35-7.2", accelerator="tcg", cpus=2, memory_bytes=MIB, places={"root": 0})
    assert shape.decode(shape.encode(made)) == made
    for text in ("", "{}", shape.encode(made).replace('"format":1', '"format":2')):
        with pytest.raises(DriverError) as caught:
            shape.decode(text)
        assert caught.value.code == "shape_unreadable"

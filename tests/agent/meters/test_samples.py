"""Samples: what is written is read, torn writes are not, and two samples make rates."""

import random

import pytest

from nacre.agent.meters.samples import SIZE, Sample, decode, encode, point, points, thinned

FULL = Sample(
    at=1_800_000_000,
    life=7,
    cpu_ns=5_000_000_000,
    resident_bytes=100,
    balloon_bytes=0,
    disk_read_bytes=1 << 40,
    disk_written_bytes=2,
    disk_reads=3,
    disk_writes=4,
    guest_load_milli=1500,
)


def test_a_sample_is_what_was_written() -> None:
    data = encode(FULL)
    assert len(data) == SIZE == 128
    assert decode(data) == FULL


def test_nothing_else_is_a_sample() -> None:
    assert decode(bytes(SIZE)) is None
    data = bytearray(encode(FULL))
    for place in random.Random(1).sample(range(SIZE), 40):
        torn = bytearray(data)
        torn[place] ^= 0x40
        assert decode(bytes(torn)) is None


def test_counters_become_rates_and_sizes_stay() -> None:
    later = Sample(at=FULL.at + 10, life=7, cpu_ns=10_000_000_000, resident_bytes=200, disk_read_bytes=(1 << 40) + 50)
    seen = point(FULL, later, 35)
    assert seen.cpu_cores == 0.5
    assert seen.memory_resident_bytes == 200
    assert seen.disk_read_bytes_per_second == 5.0
    assert seen.disk_writes_per_second is None
    assert seen.network_sent_bytes_per_second is None
    assert point(None, FULL, 35).guest_load_1m == 1.5


@pytest.mark.parametrize(
    "later",
    [
        Sample(at=FULL.at + 10, life=8, cpu_ns=6_000_000_000),  # another process: it counts anew
        Sample(at=FULL.at + 60, life=7, cpu_ns=6_000_000_000),  # too long ago
        Sample(at=FULL.at, life=7, cpu_ns=6_000_000_000),
        Sample(at=FULL.at + 10, life=7, cpu_ns=1),  # went back
    ],
)
def test_there_is_no_rate_over_a_gap(later: Sample) -> None:
    assert point(FULL, later, 35).cpu_cores is None


def test_thinning_loses_nothing_of_what_was_counted() -> None:
    samples = [Sample(at=1000 + 10 * n, life=1, cpu_ns=n * 1_000_000_000) for n in range(100)]
    coarse = thinned(samples, 60)
    assert [sample.at // 60 for sample in coarse] == sorted({sample.at // 60 for sample in samples})
    rates = [one.cpu_cores for one in points(coarse, begin=1100, longest_s=200)]
    assert all(rate == pytest.approx(0.1) for rate in rates if rate is not None)

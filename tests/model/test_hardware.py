"""Parts of machines: what is written can be read again, and what cannot be is refused by field."""

import msgspec
import pytest

from nacre.model.hardware import (
    CpuOptions,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
)

FULL: list[msgspec.Struct] = [
    CpuOptions(max=8, model="Skylake-Server-v5", topology=CpuTopology(threads=2, cores=4), hyperv=True),
    MemoryOptions(max_bytes=8 << 30, hugepage_bytes=2 << 20, shared=True, thp=False),
    NumaCell(cpus="0-3,8", memory_bytes=1 << 30, host_nodes="0"),
    DiskOptions(direct=True, limits=RateLimits(bandwidth=TokenBucket(size=1 << 20, burst=5))),
    NicOptions(mtu=9000, queues=4, tso=False),
    DeviceOptions(rng="", tpm=True),
    LimitGroup(name="slow", limits=RateLimits(operations=TokenBucket(size=100))),
]


@pytest.mark.parametrize("part", FULL, ids=lambda part: type(part).__name__)
def test_what_is_written_is_read_again(part):
    assert msgspec.json.decode(msgspec.json.encode(part), type=type(part)) == part
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=type(part)) == part


@pytest.mark.parametrize(
    ("kind", "text", "field"),
    [
        (TokenBucket, '{"size": 0}', "$.size"),
        (TokenBucket, '{"size": 1, "refill_ms": 50}', "$.refill_ms"),
        (CpuTopology, '{"threads": 3}', "$.threads"),
        (NumaCell, '{"cpus": "0-", "memory_bytes": 1048576}', "$.cpus"),
        (MemoryOptions, '{"max_bytes": 1048577}', "$.max_bytes"),
        (DiskOptions, '{"serial": "a,b"}', "$.serial"),
        (DeviceOptions, '{"rng": "/etc/shadow"}', "$.rng"),
        (NicOptions, '{"mtu": 67}', "$.mtu"),
        (LimitGroup, '{"name": "-", "limits": {}}', "$.name"),
    ],
)
def test_what_no_machine_can_be_is_refused_by_field(kind, text, field):
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.json.decode(text, type=kind)
    assert field in str(refused.value)


def test_a_bucket_knows_its_rate():
    assert TokenBucket(size=500, refill_ms=250).per_second == 2000


def test_a_topology_is_as_many_cpus_as_its_product():
    assert CpuTopology(threads=2, cores=3, dies=2, packages=2).cpus == 24


def test_a_field_that_nobody_knows_is_refused():
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode('{"threds": 2}', type=CpuTopology)

"""Counters are the sum of what Firecracker wrote, whoever reads it and however often."""

import json

import pytest

from nacre.agent.hypervisors.abilities import DeviceCounters, GuestCounters
from nacre.agent.hypervisors.firecracker import metrics


@pytest.fixture
def path(tmp_path):
    (tmp_path / "metrics").touch()
    return tmp_path / "metrics"


def line(**devices: dict) -> bytes:
    return json.dumps({"utc_timestamp_ms": 1, "block": {"read_bytes": 99}, "vmm": {}} | devices).encode() + b"\n"


def disk(read: int, written: int) -> dict:
    return {"read_bytes": read, "write_bytes": written, "read_count": 1, "write_count": 2, "read_agg": {"sum_us": 5}}


def collected(path) -> metrics.Sums:
    with path.open("r+b") as file:
        return metrics.collect(file.fileno(), path.with_name("sums"))


def append(path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def total(read: int, written: int, lines: int) -> GuestCounters:
    counted = DeviceCounters(id="data-1", read_bytes=read, written_bytes=written, reads=lines, writes=2 * lines)
    return GuestCounters(disks=(counted,))


def test_lines_are_added_up_once(path):
    append(path, line(block_data_2d1=disk(1, 10)))
    assert collected(path).counters() == total(1, 10, 1)
    append(path, line(block_data_2d1=disk(2, 20)) + line(block_data_2d1=disk(4, 40)))
    for _ in range(2):
        assert collected(path).counters() == total(7, 70, 3)


def test_nics_are_counted_from_the_side_of_the_guest(path):
    counted = {"rx_bytes_count": 1, "tx_bytes_count": 2, "rx_packets_count": 3, "tx_packets_count": 4, "rx_fails": 9}
    append(path, line(net_eth0=counted))
    assert collected(path).counters().nics == (
        DeviceCounters(id="eth0", read_bytes=1, written_bytes=2, reads=3, writes=4),
    )


def test_half_a_line_waits_for_the_other_half(path):
    whole = line(block_data_2d1=disk(1, 10))
    append(path, whole[:20])
    assert collected(path).counters() == GuestCounters()
    append(path, whole[20:])
    assert collected(path).counters() == total(1, 10, 1)


def test_a_line_that_is_none_is_skipped(path):
    append(path, b'{"block_data_2d1": nonsense\n[1]\n' + line(block_data_2d1=disk(1, 10)))
    assert collected(path).counters() == total(1, 10, 1)


@pytest.mark.parametrize("appends", [True, False])
def test_a_long_file_is_cut_and_nothing_is_lost_or_counted_twice(path, monkeypatch, appends):
    monkeypatch.setattr(metrics, "CUT_AT", 500)
    at = 0
    for number in range(1, 30):
        with path.open("ab" if appends else "r+b") as file:
            if not appends:
                file.seek(at)
            file.write(line(block_data_2d1=disk(1, 10)))
            at = file.tell()
        if number % 3:
            for _ in range(2):
                assert collected(path).counters() == total(number, 10 * number, number)
    assert path.stat().st_blocks * 512 <= 8192

"""Console logs: read at their end, kept in bounds while somebody appends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.console_logs import LOG_KEPT, joined, since, size, tail, trim, trim_others


def test_the_end_of_a_log_is_read(tmp_path):
    path = tmp_path / "console.log"
    assert size(path) == 0
    with pytest.raises(FileNotFoundError):
        tail(path, 5)
    path.write_bytes(b"0123456789")
    assert tail(path, 4) == b"6789"
    assert tail(path, 100) == b"0123456789"


def test_a_log_that_is_too_long_keeps_its_last_lines_and_can_be_appended_to(tmp_path):
    path = tmp_path / "console.log"
    lines = b"".join(b"line %04d\n" % number for number in range(1000))
    path.write_bytes(lines)
    with path.open("ab", buffering=0) as writer:
        assert not trim(path, limit=20_000, kept=1000)
        assert trim(path, limit=5000, kept=1005)
        writer.write(b"after\n")
    content = path.read_bytes()
    assert content.startswith(b"line 09")
    assert content.endswith(b"line 0999\nafter\n")
    assert len(content) <= 1005 + 6


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_what_was_stored_and_what_was_heard_make_one_text(before, both, after):
    text = joined(before + both, both + after)
    assert text.startswith(before + both)
    assert text.endswith(both + after)
    assert len(text) <= len(before + both + after)


def test_a_number_that_came_before_is_not_taken_for_the_beginning():
    lines = [b"%d\n" % number for number in range(200)]
    assert joined(b"".join(lines[:150]), b"".join(lines[12:])) == b"".join(lines)
    assert joined(b"".join(lines[:150]), b"".join(lines[12:140])) == b"".join(lines[:150])
    assert joined(b"abc", b"") == b"abc"
    assert joined(b"", b"abc") == b"abc"


def test_a_log_is_read_from_where_it_was_left(tmp_path):
    path = tmp_path / "console.log"
    assert since(path, 0, 100) == (b"", 0)
    path.write_bytes(b"0123456789")
    assert since(path, 4, 100) == (b"456789", 10)
    assert since(path, 0, 3) == (b"789", 10)
    assert since(path, 10, 100) == (b"", 10)
    moved = trim(path, limit=5, kept=4)
    assert since(path, 8 - moved, 100) == (b"89", 4)


def test_who_writes_on_where_it_was_leaves_a_hole_that_does_not_count(tmp_path):
    path = tmp_path / "virtio-console.log"
    line = b"x" * 63 + b"\n"
    with path.open("wb", buffering=0) as writer:
        for round_ in range(1, 6):
            writer.write(line * (4 << 10))
            assert path.stat().st_size == round_ * (256 << 10)
            trim(path, limit=192 << 10, kept=64 << 10)
            assert trim(path, limit=192 << 10, kept=64 << 10) == 0
            assert path.read_bytes() == line * ((1 << 10) - 1)
        writer.write(line)
        assert not trim(path, limit=192 << 10, kept=64 << 10)
        assert path.read_bytes().endswith(b"\0" + line)
        assert path.stat().st_blocks * 512 < 128 << 10


def test_what_else_is_written_about_a_machine_is_bounded_and_its_console_log_left(tmp_path):
    names = ("console.log", "virtio-console.log", "hypervisor.log", "root.qcow2")
    for name in names:
        (tmp_path / name).write_bytes(b"line\n" * (1 << 20))
    trim_others(tmp_path / "console.log")
    kept = {name: size(tmp_path / name) for name in names}
    assert kept["console.log"] == kept["root.qcow2"] == 5 << 20
    assert 0 < kept["virtio-console.log"] == kept["hypervisor.log"] <= LOG_KEPT
    trim_others(tmp_path / "nothing" / "console.log")

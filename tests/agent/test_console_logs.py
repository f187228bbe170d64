"""Console logs: read at their end, kept in bounds while somebody appends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.console_logs import joined, since, size, tail, trim


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

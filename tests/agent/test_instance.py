"""Names of starts sort, whatever the clock does."""

from nacre.agent.instance import new_instance
from nacre.lib.clock import ManualClock


def test_a_later_start_sorts_after_an_earlier_one_even_if_the_clock_was_set_back(tmp_path):
    clock = ManualClock()
    names = [new_instance(tmp_path, clock)]
    for jump in (-3600, 0, 7200, -86400):
        clock.jump(jump)
        names.append(new_instance(tmp_path, clock))
    assert names == sorted(names)
    assert len(set(names)) == 5
    (tmp_path / "instance").write_text("nonsense")
    new_instance(tmp_path, clock)

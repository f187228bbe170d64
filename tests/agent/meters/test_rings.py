"""The ring file: fixed size, newest kept, each time from the ring that reaches so far back."""

from pathlib import Path

from nacre.agent.meters.rings import FILE_BYTES, Ring
from nacre.agent.meters.samples import Sample
from nacre.model.metrics import MAX_POINTS, TIERS

T0 = 1_800_000_000


def filled(path: Path, seconds: int, step: int = 10) -> tuple[Ring, int]:
    ring = Ring(path)
    for at in range(T0, T0 + seconds, step):
        ring.add(Sample(at=at, life=1, cpu_ns=at - T0))
    return ring, T0 + seconds - step


def test_the_last_hour_is_there_as_fine_as_it_was_measured(tmp_path: Path) -> None:
    ring, now = filled(tmp_path / "r", 7200)
    step, found = ring.between(now - 3590, now, now, None)
    assert step == 10
    assert [sample.at for sample in found] == list(range(now - 3590, now + 1, 10))
    assert ring.last() == found[-1]


def test_what_is_older_is_there_more_coarsely(tmp_path: Path) -> None:
    ring, now = filled(tmp_path / "r", 3 * 3600)
    step, found = ring.between(now - 2 * 3600, now, now, None)
    assert step == 60
    assert len(found) in {120, 121, 122, 123}
    assert found[0].at <= now - 2 * 3600
    step, found = ring.between(now - 2 * 86400, now, now, None)
    assert step == 900
    assert len(found) == 12


def test_a_coarser_step_can_be_asked_for_and_a_range_has_bounds(tmp_path: Path) -> None:
    ring, now = filled(tmp_path / "r", 3600)
    step, found = ring.between(now - 3000, now, now, 300)
    assert (step, len(found)) == (300, 12)
    step, _ = ring.between(now - 14 * 86400, now, now, 1)
    assert 14 * 86400 / step <= MAX_POINTS


def test_the_file_never_grows_and_old_samples_give_way(tmp_path: Path) -> None:
    ring, now = filled(tmp_path / "r", 86400, step=60)
    assert (tmp_path / "r").stat().st_size <= FILE_BYTES == 128 * (360 + 1440 + 1344)
    _, found = ring.between(now - 3599, now, now, None)
    assert all(sample.at >= now - 3700 for sample in found)
    assert sum(step * count for step, count in TIERS) == 3600 + 86400 + 14 * 86400


def test_it_outlives_who_wrote_it_and_damage_costs_only_what_is_damaged(tmp_path: Path) -> None:
    ring, now = filled(tmp_path / "r", 600)
    data = bytearray((tmp_path / "r").read_bytes())
    data[(now // 10 % 360) * 128 + 20] ^= 1
    (tmp_path / "r").write_bytes(data)
    _, found = Ring(tmp_path / "r").between(now - 100, now, now, None)
    assert now not in {sample.at for sample in found}
    assert now - 10 in {sample.at for sample in found}
    ring.remove()
    assert Ring(tmp_path / "r").between(now - 100, now, now, None) == (10, [])
    assert Ring(tmp_path / "r").last() is None

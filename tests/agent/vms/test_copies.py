"""Copies: found again, counted, told of, deleted only when named, and whole or not at all."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from nacre.agent.records import Record
from nacre.agent.vms.copies import Copies
from nacre.lib.clock import ManualClock
from nacre.model.copies import CopyObserved, CopyRef
from nacre.model.vms import VmIntent
from support.intents import IMAGE, vm_id, vm_intent

CLOCK = ManualClock()


def load(root: Path) -> Copies:
    found = Copies(SimpleNamespace(copies=root / "copies", clock=CLOCK))  # type: ignore[arg-type]
    found.load()
    return found


@pytest.fixture
def copies(tmp_path: Path) -> Copies:
    return load(tmp_path)


def set_aside(copies: Copies, root: Path, intent: VmIntent, *, note: bool = True) -> None:
    """What `retire` does with a machine's folder."""
    place = root / "vms" / intent.id
    place.mkdir(parents=True)
    (place / "root.qcow2").write_bytes(b"x" * 10_000)
    if note:
        copies.note(place, Record(id=intent.id, intent=intent, found_at=CLOCK.now()), intent.fence)
    copies.take(place, intent.id, intent.fence)
    assert not place.exists()


def test_a_copy_is_known_with_its_size_and_since_when_also_to_the_next_agent(copies, tmp_path):
    intent = vm_intent(fence=4)
    set_aside(copies, tmp_path, intent)
    for each in (copies, load(tmp_path)):
        (told,) = each.observed()
        assert (told.id, told.fence, told.exists, told.since) == (intent.id, 4, True, CLOCK.now())
        assert 10_000 <= told.size_bytes < 100_000
        assert each.fences(intent.id) == {4}
        assert each.images() == {IMAGE}


def test_of_what_is_not_there_that_is_said(copies, tmp_path):
    intent = vm_intent(fence=4)
    set_aside(copies, tmp_path, intent)
    other = CopyRef(id=vm_id(), fence=1)
    kept, gone = copies.observed([CopyRef(id=intent.id, fence=4), other])
    assert kept.exists
    assert gone == CopyObserved(id=other.id, fence=1, exists=False)


def test_only_what_is_named_is_deleted_and_that_may_be_repeated(copies, tmp_path):
    first, second = vm_intent(fence=1), vm_intent(fence=1)
    later = vm_intent(first.id, fence=2)
    for intent in (first, second, later):
        set_aside(copies, tmp_path, intent)
    for _ in range(2):
        copies.discard(first.id, 1)
        assert {(each.id, each.fence) for each in copies.observed()} == {(second.id, 1), (first.id, 2)}
    copies.discard(vm_id(), 1)
    assert len(load(tmp_path).observed()) == 2


def test_half_a_copy_is_never_taken_for_one(copies, tmp_path):
    intent = vm_intent(fence=1)
    set_aside(copies, tmp_path, intent)
    place = copies.place(intent.id, 1)
    place.rename(place.with_name(f".{place.name}.discarded"))
    assert load(tmp_path).observed() == ()
    assert list((tmp_path / "copies").iterdir()) == []


def test_what_is_not_ours_is_left_alone_and_said(copies, tmp_path):
    strange = [tmp_path / "copies" / name for name in ("notes", "vm-short.1", f"{vm_id()}.x", ".hidden")]
    for place in strange:
        place.mkdir()
    (tmp_path / "copies" / f"{vm_id()}.3").write_text("a file")
    with capture_logs() as logs:
        found = load(tmp_path)
    assert found.observed() == ()
    assert {log["event"] for log in logs} == {"copy.unknown"}
    assert len(logs) == 5
    assert all(place.exists() for place in strange)


def test_a_copy_without_a_note_is_one_and_its_image_may_be_any(copies, tmp_path):
    intent = vm_intent(fence=1)
    set_aside(copies, tmp_path, intent, note=False)
    (told,) = load(tmp_path).observed()
    assert (told.exists, told.since) == (True, None)
    assert load(tmp_path).images() is None

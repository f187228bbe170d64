"""Records: whole or not at all, and what cannot be read is set aside."""

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.agent.records import Desired, Record, RecordStore, Run, Starting
from nacre.model.vms import ExitReason, RunInfo
from support.intents import node_intent, vm_id, vm_intent

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path) -> RecordStore:
    return RecordStore(tmp_path)


def full() -> Record:
    intent = vm_intent()
    info = RunInfo(
        id="run-1", started_at=NOW, accelerator="tcg", accelerator_reason="kvm: no", cpus=1, memory_bytes=1 << 26
    )
    return Record(
        id=intent.id,
        intent=intent,
        run=Run(info=info, hypervisor="fake", handle={"pid": 7, "start_time": 9, "boot_id": "b", "details": {}}),
        starting=Starting(run="run-2", hypervisor="fake", boot_id="b"),
        ending=ExitReason.KILLED,
        reboot_nonce=2,
        found_at=NOW,
    )


def test_what_was_saved_is_loaded_again_as_it_was(store):
    record = full()
    store.save(record)
    assert store.load_all() == {record.id: record}
    assert record.is_alive
    assert record.generation == 1


def test_saving_again_replaces_and_removing_may_be_repeated(store):
    record = full()
    store.save(record)
    store.save(msgspec.structs.replace(record, deleted=True))
    assert store.load_all()[record.id].deleted
    store.remove(record.id)
    store.remove(record.id)
    assert store.load_all() == {}


def test_only_its_owner_may_read_it(store, tmp_path):
    store.save(full())
    (path,) = (tmp_path / "records").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700


@given(cut=st.integers(0, 600))
def test_a_damaged_record_is_set_aside_and_the_others_are_read(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("records")
    store = RecordStore(folder)
    broken, good = full(), full()
    store.save(broken)
    store.save(good)
    path = folder / "records" / f"{broken.id}.json"
    path.write_bytes(path.read_bytes()[:cut])
    assert store.load_all() == {good.id: good}
    assert path.with_suffix(".damaged").exists()


def test_the_desired_state_is_kept_with_its_digest(store, tmp_path):
    assert store.desired() is None
    desired = Desired(digest="d", intent=node_intent(vm_intent()))
    store.save_desired(desired)
    assert RecordStore(tmp_path).desired() == desired
    (tmp_path / "intent.msgpack").write_bytes(b"\xff\x00")
    assert store.desired() is None


def test_a_field_of_a_later_version_does_not_make_a_record_unreadable(store, tmp_path):
    record = Record(id=vm_id(), found_at=NOW)
    store.save(record)
    path = tmp_path / "records" / f"{record.id}.json"
    path.write_bytes(path.read_bytes()[:-1] + b',"news":1}')
    assert store.load_all() == {record.id: record}


def test_what_an_agent_was_killed_while_writing_is_swept_up(store, tmp_path):
    store.save(full())
    draft = tmp_path / "records" / f".{full().id}.json-abc123"
    draft.write_text("{")
    assert len(store.load_all()) == 1
    assert draft.exists(), "reading changes nothing: the draft may be that of an agent that runs"
    store.sweep()
    assert not draft.exists()

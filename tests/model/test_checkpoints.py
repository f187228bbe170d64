"""Checkpoints in words."""

from datetime import UTC, datetime

import msgspec
import pytest

from nacre.model.checkpoints import CheckpointIntent, CheckpointObserved, is_part, settled, snapshot_of
from nacre.model.ids import CheckpointId, ImageId, RunId, SnapshotId
from nacre.model.vm_changes import in_force, unlike
from nacre.model.vms import RestartPolicy, RunInfo, VmSpec
from nacre.model.volumes import Wish

CHECKPOINT = CheckpointId("ckpt-00000000000000000000000001")
AT = datetime(2030, 1, 1, tzinfo=UTC)


def test_parts_of_checkpoints_are_told_from_snapshots():
    assert is_part(snapshot_of(CHECKPOINT))
    assert not is_part(SnapshotId("snap-00000000000000000000000001"))


@pytest.mark.parametrize("desired", list(Wish))
def test_a_checkpoint_is_settled_when_it_is_there_or_gone_as_wanted(desired):
    wanted = CheckpointIntent(id=CHECKPOINT, desired=desired)
    seen = CheckpointObserved(id=CHECKPOINT, taken_at=AT)
    assert settled(wanted, seen) is (desired is Wish.PRESENT)
    assert settled(wanted, None) is (desired is Wish.ABSENT)


def test_a_machine_is_another_one_if_the_guest_could_tell():
    spec = VmSpec(image=ImageId("img-1"), cpus=2)
    run = RunInfo(
        id=RunId("run-1"),
        started_at=AT,
        accelerator="tcg",
        accelerator_reason="",
        cpus=spec.cpus,
        memory_bytes=spec.memory_bytes,
        config=in_force(spec),
        exited_at=AT,
    )
    assert unlike(spec, run) == ()
    assert unlike(msgspec.structs.replace(spec, cpus=4), run) == ("cpus",)
    assert unlike(msgspec.structs.replace(spec, restart=RestartPolicy.NEVER), run) == ()

"""Checkpoints as they are shown: rows to bodies. Used by the services of checkpoints."""

from collections.abc import Sequence

from nacre.control.store import checkpoints as store
from nacre.control.store import volumes
from nacre.control.store.checkpoints import CheckpointRow
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow
from nacre.model.checkpoints import CheckpointPhase
from nacre.model.volumes import Wish
from nacre.schema.checkpoints import CheckpointOut
from nacre.schema.common import VmRef
from nacre.schema.volumes import VolumeRef


async def shown(rd: Read, rows: Sequence[CheckpointRow], vm: VmRow) -> list[CheckpointOut]:
    """Show checkpoints of a machine."""
    parts = await store.volumes_of(rd, [row.id for row in rows])
    named = {
        one.id: one.name for one in await volumes.many(rd, [one.volume for some in parts.values() for one in some])
    }
    return [
        CheckpointOut(
            id=row.id,
            name=row.name,
            description=row.description,
            vm=VmRef(id=vm.id, name=vm.name),
            phase=phase_of(row),
            consistency=row.consistency,
            memory=row.memory,
            volumes=tuple(VolumeRef(id=one.volume, name=named.get(one.volume, "")) for one in parts.get(row.id, [])),
            size_bytes=row.size_bytes,
            memory_bytes=row.memory_bytes,
            taken_at=row.taken_at if row.failure is None else None,
            failure=row.failure,
            expires_at=row.expires_at,
            protected=row.protected,
            created_by=row.created_by,
            created_at=row.created_at,
        )
        for row in rows
    ]


def phase_of(row: CheckpointRow) -> CheckpointPhase:
    """Say what has become of a checkpoint. Pure."""
    if row.desired is Wish.ABSENT:
        return CheckpointPhase.DELETING
    if row.failure is not None:
        return CheckpointPhase.FAILED
    return CheckpointPhase.CREATING if row.taken_at is None else CheckpointPhase.READY

"""What nodes are told of the checkpoints of machines. A part of `desired`: rows in, intents out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nacre.control.store import checkpoints
from nacre.control.store.checkpoints import CheckpointRow, PartRow
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow
from nacre.model.checkpoints import CheckpointIntent
from nacre.model.ids import CheckpointId, VmId


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The checkpoints of some machines."""

    rows: Mapping[VmId, list[CheckpointRow]] = field(default_factory=dict[VmId, list[CheckpointRow]])
    parts: Mapping[CheckpointId, list[PartRow]] = field(default_factory=dict[CheckpointId, list[PartRow]])

    def of(self, vm: VmId) -> tuple[CheckpointIntent, ...]:
        """Return what is told of one machine's, oldest first."""
        return tuple(
            CheckpointIntent(
                id=row.id,
                desired=row.desired,
                after=row.after,
                memory=row.memory,
                volumes=tuple(part.volume for part in self.parts.get(row.id, ())),
            )
            for row in self.rows.get(vm, ())
        )


NOTHING = Kept()


async def load(rd: Read, machines: Iterable[VmRow]) -> Kept:
    """Read the checkpoints of those machines that have any."""
    having = [row.id for row in machines if row.checkpoints]
    if not having:
        return NOTHING
    rows = await checkpoints.of(rd, having)
    parts = await checkpoints.volumes_of(rd, [one.id for some in rows.values() for one in some])
    return Kept(rows=rows, parts=parts)

"""The checkpoints of one simulated machine: names without content. Used by `machines`."""

from dataclasses import dataclass, field
from datetime import datetime

from nacre.agent.checkpoint_planner import NOTHING_HELD, Held
from nacre.agent.planner import Delete, DropCheckpoint, PutBack, TakeCheckpoint
from nacre.model.checkpoints import CheckpointObserved
from nacre.model.consistency import Consistency
from nacre.model.ids import CheckpointId
from nacre.model.vms import VmIntent


@dataclass
class Keeping:
    """What is kept of a machine."""

    restore_nonce: int = 0
    kept: dict[CheckpointId, CheckpointObserved] = field(default_factory=dict[CheckpointId, CheckpointObserved])

    def first(self, intent: VmIntent) -> None:
        """On first contact, what was asked for before counts as done."""
        self.restore_nonce = 0 if intent.restore is None else intent.restore.nonce

    def keep(
        self, step: TakeCheckpoint | DropCheckpoint, intent: VmIntent | None, now: datetime, *, alive: bool
    ) -> None:
        """Take a checkpoint or forget one."""
        wanted = step.checkpoint
        if isinstance(step, DropCheckpoint):
            self.kept.pop(wanted.id, None)
            return
        disk = (intent.spec.disk_bytes if intent is not None else None) or 0
        memory = intent.spec.memory_bytes if wanted.memory and intent is not None else 0
        consistency = Consistency.CRASH if alive else Consistency.FILESYSTEM
        self.kept[wanted.id] = CheckpointObserved(
            id=wanted.id,
            taken_at=now,
            consistency=Consistency.MEMORY if wanted.memory else consistency,
            size_bytes=disk,
            disk_bytes=disk,
            memory_bytes=memory,
        )

    def put_back(self, step: PutBack | Delete) -> None:
        """Note that it is what it was, or gone with everything."""
        if isinstance(step, PutBack):
            self.restore_nonce = step.restoration.nonce
        else:
            self.kept.clear()

    def observed(self) -> tuple[CheckpointObserved, ...]:
        """Return what there is to tell."""
        return tuple(self.kept[name] for name in sorted(self.kept)) if self.kept else ()

    def held(self) -> Held:
        """Return what the planner is to know."""
        if not self.kept and not self.restore_nonce:
            return NOTHING_HELD
        return Held(checkpoints=frozenset(self.kept), restore_nonce=self.restore_nonce)

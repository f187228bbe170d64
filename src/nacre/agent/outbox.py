"""Facts on their way to the control plane: numbered, sent one message at a time, kept until acknowledged. Pure.

Used by `link.py`. Facts that come while one message is out are gathered into the next, so a busy node sends few large
messages and a quiet one sends at once. What happened while the link was down is told in order when it is back.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nacre.model.copies import CopyObserved
from nacre.model.ids import ImageId, VmId, VolumeId
from nacre.model.vms import VmObserved
from nacre.model.volumes import PoolObserved, VolumeObserved
from nacre.protocol.messages import HeldVm, Observed

MAX_BATCHES = 256
"""More than this is forgotten, oldest first; the complete report that follows every connection tells how it ended."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that an agent holds now."""

    vms: tuple[VmObserved, ...] = ()
    held: tuple[HeldVm, ...] = ()
    images: tuple[ImageId, ...] = ()
    copies: tuple[CopyObserved, ...] = ()
    volumes: tuple[VolumeObserved, ...] = ()
    pools: tuple[PoolObserved, ...] = ()


class Outbox:
    """Facts that are not stored at the control plane yet."""

    def __init__(self) -> None:
        self._sequence = 0
        self._batches: deque[dict[VmId, VmObserved]] = deque(maxlen=MAX_BATCHES)
        self._volumes: dict[VolumeId, VolumeObserved] = {}
        self._complete_wanted = False
        self._unstored: Observed | None = None
        self._is_out = False

    def add(self, vms: tuple[VmObserved, ...]) -> None:
        """Take facts. Two about one machine go into two messages, because the way it went is worth knowing."""
        for vm in vms:
            if not self._batches or vm.id in self._batches[-1]:
                self._batches.append({})
            self._batches[-1][vm.id] = vm

    def add_volume(self, volume: VolumeObserved) -> None:
        """Take facts of a volume. Only the newest are told: the way it went says nothing more."""
        self._volumes[volume.id] = volume

    def want_complete(self) -> None:
        """Send a complete report after what waits."""
        self._complete_wanted = True

    def reconnected(self) -> None:
        """Send again what was not acknowledged, under its old number, then what waits, then everything."""
        self._is_out = False
        if self._unstored is not None and self._unstored.complete:
            self._unstored = None  # what is reported now will be newer
        self._complete_wanted = True

    def next(self, digest: str, report: Callable[[], Report]) -> Observed | None:
        """Return the message to send now; None if there is nothing, or if one is still out."""
        if self._is_out:
            return None
        self._unstored = self._unstored or self._made(digest, report)
        self._is_out = self._unstored is not None
        return self._unstored

    def acknowledge(self, sequence: int) -> None:
        """Forget what is stored."""
        if self._unstored is not None and sequence >= self._unstored.sequence:
            self._unstored = None
            self._is_out = False

    def _made(self, digest: str, report: Callable[[], Report]) -> Observed | None:
        if not self._batches and not self._volumes and not self._complete_wanted:
            return None
        self._sequence += 1
        if self._batches or self._volumes:
            vms = tuple(self._batches.popleft().values()) if self._batches else ()
            volumes = tuple(self._volumes.values())
            self._volumes.clear()
            return Observed(sequence=self._sequence, digest=digest, complete=False, vms=vms, volumes=volumes)
        self._complete_wanted = False
        now = report()
        return Observed(
            sequence=self._sequence,
            digest=digest,
            complete=True,
            vms=now.vms,
            held=now.held,
            images=now.images,
            copies=now.copies,
            volumes=now.volumes,
            pools=now.pools,
        )

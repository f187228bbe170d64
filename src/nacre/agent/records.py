"""The agent's memory: one small file per machine, and the last desired state. Written before what it announces.

Used by the recipes and the executor. A record is replaced as a whole and synced; a crash leaves the old or the new one.
"""

from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from nacre.lib.files import sync_folder, write_atomically
from nacre.model.arrivals import ArrivingVolume, Room
from nacre.model.ids import CheckpointId, RunId, StreamId, VmId, VolumeId
from nacre.model.vms import ExitReason, RunInfo, VmIntent
from nacre.protocol.messages import NodeIntent

log = structlog.get_logger()

_SUFFIX = ".json"


class Starting(msgspec.Struct, frozen=True, kw_only=True):
    """A life that was about to begin: there may be a process of it, or there may not."""

    run: RunId
    hypervisor: str
    boot_id: str


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The newest life that had a process, running or ended."""

    info: RunInfo
    hypervisor: str
    handle: dict[str, object]
    """What the driver gave to find the process again (`hypervisors.base.Handle`)."""
    ended_under: int = 0
    """The generation that was in force when it ended."""


class Sending(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt to send the machine to another node while it runs."""

    stream: StreamId
    sent: bool = False
    """All of it has left. It may run there, and must not run here until the order is withdrawn."""


class Arriving(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that comes from another node and does not belong here yet."""

    stream: StreamId
    received: bool = False
    """A process for it was about to be started."""
    volumes: tuple[ArrivingVolume, ...] = ()
    """Where its volumes are."""
    room: Room | None = None
    """How much it may have."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """All that must outlive the agent about one machine."""

    id: VmId
    intent: VmIntent | None = None
    """The newest intent that was accepted. None for a machine that is only known by what lies on the disk."""
    run: Run | None = None
    starting: Starting | None = None
    ending: ExitReason | None = None
    """How the current life is about to end: what we have begun, or what the guest has done."""
    reboot_nonce: int = 0
    reset_nonce: int = 0
    restore_nonce: int = 0
    waking: CheckpointId | None = None
    """The checkpoint whose memory the next life goes on from: its disks are as they were then."""
    plugging: tuple[VolumeId, ...] = ()
    """Volumes that the running process is being told to open."""
    crashes: int = 0
    """Ends without our doing in a row, which the next wait before a restart follows from."""
    restarts: int = 0
    user: int = 0
    """Whom its hypervisor runs as, and who owns its files; 0 if that is the agent's user."""
    root_made: bool | None = None
    """Its root disk has been made: if it is not there, it is lost. None if only the lives it has had can tell."""
    deleted: bool = False
    """Nothing is left of it but this, until the desired state no longer names it."""
    sending: Sending | None = None
    arriving: Arriving | None = None
    found_at: datetime
    """When the agent first heard of it."""

    @property
    def generation(self) -> int:
        """The newest generation that was accepted."""
        return 0 if self.intent is None else self.intent.generation

    @property
    def fence(self) -> int:
        """The token of the placement that was accepted, which is that of what runs and lies here."""
        return 0 if self.intent is None else self.intent.fence

    @property
    def is_alive(self) -> bool:
        """Whether, as far as is written here, its process runs."""
        return self.run is not None and self.run.info.exited_at is None


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """The last desired state and its digest."""

    digest: str
    intent: NodeIntent


class RecordStore:
    """The records of one agent. Blocking; each call is short."""

    def __init__(self, folder: Path) -> None:
        """`folder` exists."""
        self._folder = folder
        self._machines = folder / "records"
        self._desired = folder / "intent.msgpack"
        self._encoder = msgspec.json.Encoder()
        self._machines.mkdir(mode=0o700, exist_ok=True)

    def sweep(self) -> None:
        """Remove what an agent was killed while writing. Only for the one that writes: a draft may be somebody's."""
        for draft in self._machines.glob(f".*{_SUFFIX}-*"):
            draft.unlink()

    def load_all(self) -> dict[VmId, Record]:
        """Return every record. A damaged one is set aside and reported: its machine is then found by its sockets."""
        found: dict[VmId, Record] = {}
        for path in sorted(self._machines.glob(f"*{_SUFFIX}")):
            try:
                record = msgspec.json.decode(path.read_bytes(), type=Record)
            except msgspec.MsgspecError:
                log.exception("record.damaged", vm=path.stem, next="the machine is looked for by its sockets")
                path.replace(path.with_suffix(".damaged"))
                continue
            found[record.id] = record
        return found

    def save(self, record: Record) -> None:
        """Replace a record; durable when it returns. Raises OSError."""
        write_atomically(self._path(record.id), self._encoder.encode(record))

    def remove(self, vm: VmId) -> None:
        """Forget a machine."""
        self._path(vm).unlink(missing_ok=True)
        sync_folder(self._machines)

    def desired(self) -> Desired | None:
        """Return the last desired state, None if there is none that can be read."""
        try:
            return msgspec.msgpack.decode(self._desired.read_bytes(), type=Desired)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            log.exception("intent.damaged", next="machines are left as they are until the next sync")
            return None

    def save_desired(self, desired: Desired) -> None:
        """Replace the last desired state; durable when it returns. Raises OSError."""
        write_atomically(self._desired, msgspec.msgpack.encode(desired))

    def _path(self, vm: VmId) -> Path:
        return self._machines / f"{vm}{_SUFFIX}"

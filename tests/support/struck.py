"""A node with one machine that counts on its disks, whose agent is struck at every step of something. With real QEMU.

What may be lost, left or changed by that is looked for here: in the disks, in files, in what the process has open.
"""

import hashlib
import itertools
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from nacre.agent.records import Record, RecordStore
from nacre.agent.storage.layers import MANIFEST, Manifest, chain, read, tree
from nacre.lib import processes
from nacre.model.checkpoints import CheckpointIntent
from nacre.model.hardware import CpuOptions, MemoryOptions
from nacre.model.ids import CheckpointId, ProjectId, SnapshotId, VmId, VolumeId
from nacre.model.images import Artifact, Format, ImageManifest, Role
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired, Phase, VmIntent
from nacre.model.volumes import LOCAL_POOL, SnapshotIntent, VolumeAttachment, VolumeIntent, Wish, satisfies
from nacre.protocol.messages import NodeIntent
from support import counter
from support.intents import IMAGE, newer, vm_intent
from support.patience import Patience
from support.station import Agent
from support.volumes import sound

DATA = VolumeId("vol-00000000000000000000000001")
COPY = VolumeId("vol-00000000000000000000000002")
PATIENCE_S = 30.0
BOOTS = "Booting from Hard Disk"
"""What the firmware says when it hands over to the guest."""


@dataclass
class Bench:
    """The node, what is wanted of it, and its agent."""

    root: Path
    vms: dict[VmId, VmIntent] = field(default_factory=dict[VmId, VmIntent])
    volumes: dict[VolumeId, VolumeIntent] = field(default_factory=dict[VolumeId, VolumeIntent])
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    driver: str = "qemu"
    failed_will_do: bool = False
    """Whether a checkpoint that failed, and is on record as that, is settled: it is not tried again."""

    def __post_init__(self) -> None:
        self.agent = Agent(self.root, self.driver)
        self.origin = VmId("")
        self.number = 0
        """Of the round."""

    # What is wanted

    def intent(self) -> NodeIntent:
        """All of it."""
        return NodeIntent(
            vms=tuple(self.vms.values()), volumes=tuple(self.volumes.values()), images=(IMAGE,), teardown_allowed=True
        )

    def change(self, **changes: object) -> None:
        """Want something else of the machine."""
        intent = self.vms[self.origin]
        self.vms[self.origin] = newer(intent, **changes)

    def respec(self, **changes: object) -> None:
        """Want another configuration of the machine."""
        self.change(spec=msgspec.structs.replace(self.vms[self.origin].spec, **changes))

    def change_volume(self, volume: VolumeId = DATA, **changes: object) -> None:
        """Want something else of a volume."""
        before = self.volumes[volume]
        self.volumes[volume] = msgspec.structs.replace(before, generation=before.generation + 1, **changes)

    def want(self) -> None:
        """Tell the agent."""
        self.agent.want(self.intent())

    # What is told

    def until(self, so: Callable[[], object], what: str) -> bool:
        """Wait until something is so. False if the agent has died before."""
        patience = Patience(PATIENCE_S)
        while True:
            lives = self.agent.hear(0.01)
            if lives and so():
                return True
            if not lives:
                return False
            assert not patience.is_over(), self._why(what)

    def _why(self, what: str) -> str:
        return f"{what}\n{self.strays()}\n{self.agent.vms}\n{self.agent.volumes}\n{self.agent.tail()}"

    def surely(self, so: Callable[[], object], what: str) -> None:
        """Wait until something is so, with an agent that lives."""
        assert self.until(so, what), f"{what}: the agent has died\n{self.agent.tail()}"

    def settled(self) -> bool:
        """Whether all that is told is what is wanted, and nothing is being done any more."""
        return (
            self.agent.rests
            and all(self.vm_settled(vm) for vm in self.vms)
            and all(self.volume_settled(one) for one in self.volumes)
        )

    def vm_settled(self, vm: VmId) -> bool:
        """Whether a machine is as it is wanted."""
        seen, wanted = self.agent.vms.get(vm), self.vms[vm]
        if seen is None or seen.generation != wanted.generation or seen.failure is not None:
            return False
        phase = {Desired.RUNNING: Phase.RUNNING, Desired.STOPPED: Phase.STOPPED, Desired.ABSENT: Phase.ABSENT}
        there = {one.id for one in seen.checkpoints if one.failure is None or self.failed_will_do}
        kept = all((one.id in there) is (one.desired is Wish.PRESENT) for one in wanted.checkpoints)
        restored = wanted.restore is None or seen.restore_nonce >= wanted.restore.nonce
        return seen.phase is phase[wanted.desired] and kept and restored

    def volume_settled(self, volume: VolumeId) -> bool:
        """Whether a volume is as it is wanted."""
        seen, wanted = self.agent.volumes.get(volume), self.volumes[volume]
        return (
            seen is not None
            and seen.generation == wanted.generation
            and seen.failure is None
            and satisfies(wanted, seen)
        )

    # What is there

    def record(self) -> Record:
        """What is on disk about the machine."""
        return RecordStore(self.root).load_all()[self.origin]

    def folder(self, volume: VolumeId = DATA) -> Path:
        """Where a volume is."""
        return self.root / "volumes" / volume

    @property
    def root_folder(self) -> Path:
        """Where the layers of the root disk are."""
        return self.root / "vms" / self.origin / "root"

    def layers(self, folder: Path) -> list[str]:
        """What a disk is made of, from the top; only that file which is written if it has no layers."""
        manifest = read(folder)
        return [] if manifest is None else chain(tree(folder, manifest), manifest.active)

    def pids(self) -> set[int]:
        """The hypervisors of this node, by what the kernel says."""
        return pids_under(self.root)

    def pid(self, missing: int | None = None) -> int:
        """The process of the machine that counts, by what the kernel says."""
        found = [pid for pid in self.pids() if self.origin.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
        if not found and missing is not None:
            return missing
        (one,) = found
        return one

    def printed(self, vm: VmId | None = None) -> str:
        """What a machine has printed since it was first started."""
        log = self.root / "vms" / (vm or self.origin) / "console.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def counts_on(self) -> None:
        """The guest goes on counting and has found everything as it left it."""
        before = ticks(self.printed())
        self.surely(lambda: ticks(self.printed()) > before + 2, "the guest counts")
        assert not prints(self.printed())[1], self.printed()[-300:]

    def opened(self) -> set[str]:
        """The files of this node that the machine's process has open, and those among them that are gone."""
        found: set[str] = set()
        for link in Path(f"/proc/{self.pid()}/fd").iterdir():
            try:
                target = str(link.readlink())
            except FileNotFoundError:
                continue
            if target.startswith(str(self.root)) and ".qcow2" in target:
                found.add(target)
        return found

    def check_tidy(self) -> None:
        """Wait until nothing lies about but what disks and checkpoints are made of; what is not written is sound."""
        self.surely(lambda: not self.strays(), "nothing lies about")
        for folder in self.disks():
            manifest = read(folder)
            assert manifest is not None
            assert all(sound(folder / name) for name in tree(folder, manifest) if name != manifest.active), folder

    def disks(self) -> list[Path]:
        """The folders of all disks that have layers."""
        return [*(self.root / "vms").glob("*/root"), *(self.root / "volumes").iterdir()]

    def strays(self) -> list[str]:
        """What should not be there, and what is not finished."""
        found: list[str] = []
        for folder in self.disks():
            manifest = read(folder)
            if manifest is None or manifest.switching is not None:
                found.append(f"{folder} is not finished")
            else:
                useful = {*tree(folder, manifest), MANIFEST}
                found += [str(path) for path in folder.iterdir() if path.name not in useful]
        for place in (self.root / "vms").iterdir():
            found += [str(path) for path in place.iterdir() if path.name.startswith(".")]
            found += [str(path) for path in place.glob("checkpoints/*") if not path.name.startswith("ckpt-")]
        for name, known, suffix in (
            ("vms", self.vms, ""),
            ("volumes", self.volumes, ""),
            ("records", self.vms, ".json"),
            ("volume-records", self.volumes, ".json"),
        ):
            wanted = {f"{one}{suffix}" for one in known}
            found += [str(path) for path in (self.root / name).iterdir() if path.name not in wanted]
        return found

    def check_opened(self) -> None:
        """The process has open what its disks are made of now, and no file that is gone."""
        below = {str(folder / name) for folder in (self.root_folder, self.folder()) for name in self.layers(folder)}
        if not self.layers(self.root_folder):
            below.add(str(self.root_folder) + ".qcow2")
        assert self.opened() <= below | {str(self.root_folder) + ".qcow2"}, self.opened() - below

    def close(self) -> None:
        """Leave nothing behind."""
        self.agent.kill()
        for pid in self.pids():
            started = processes.start_time(pid)
            if started is not None:
                os.kill(pid, 9)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def bench(driver: str = "qemu") -> Iterator[Bench]:
    """An empty node whose images hold a disk that counts."""
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    root.chmod(0o711)  # or machines could not have users of their own, who must reach their files
    made = Bench(root, driver=driver)
    try:
        yield made
    finally:
        made.close()


def image(root: Path, disks: int) -> ImageManifest:
    """Put an image into a node's cache: a disk that counts on so many disks."""
    content = counter.disk_image(disks)
    place = root / "images" / IMAGE
    place.mkdir(parents=True, exist_ok=True)
    (place / Role.DISK.value).write_bytes(content)
    artifact = Artifact(
        role=Role.DISK,
        format=Format.RAW,
        size_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        virtual_size_bytes=len(content),
    )
    return ImageManifest(id=IMAGE, artifacts=(artifact,))


def volume_intent(volume: VolumeId = DATA, **changes: object) -> VolumeIntent:
    """A volume."""
    basis = VolumeIntent(
        id=volume,
        project=ProjectId("prj-" + "0" * 26),
        name=f"data-{volume[-1]}",
        generation=1,
        desired=Wish.PRESENT,
        pool=LOCAL_POOL,
        size_bytes=counter.SIZE,
    )
    return msgspec.structs.replace(basis, **changes)


def counting(made: Bench, *, volume: bool = True) -> VmIntent:
    """Have a machine that counts on its root disk, and on a volume."""
    manifest = image(made.root, 2 if volume else 1)
    attached = (VolumeAttachment(volume=DATA),) if volume else ()
    intent = vm_intent(
        hypervisor=made.driver,
        volumes=attached,
        disk_bytes=counter.SIZE,
        memory_bytes=64 * MIB,
        nics=(),
        cpu=CpuOptions(max=64),
        memory=MemoryOptions(max_bytes=16 * GIB),
        force_stop=True,
    )
    intent = msgspec.structs.replace(intent, image=manifest)
    made.vms[intent.id] = intent
    made.origin = intent.id
    if volume:
        made.volumes[DATA] = volume_intent()
    made.agent.start()
    made.want()
    made.surely(made.settled, "the machine runs")
    made.surely(lambda: ticks(made.printed()) > 2, "the guest counts")
    made.agent.stop()
    return intent


def kept_layer(folder: Path, snapshot: str) -> Path:
    """The layer that a snapshot stands for."""
    manifest: Manifest | None = read(folder)
    assert manifest is not None
    found = manifest.snapshot(SnapshotId(snapshot))
    assert found is not None
    return folder / found.layer


def snapshot(number: int, desired: Wish = Wish.PRESENT) -> SnapshotIntent:
    """A snapshot that there should be, or not."""
    return SnapshotIntent(id=SnapshotId(f"snap-{number:026d}"), desired=desired)


def checkpoint(number: int, **changes: object) -> CheckpointIntent:
    """A checkpoint of all disks that there should be."""
    values = {"id": CheckpointId(f"ckpt-{number:026d}"), "desired": Wish.PRESENT, "volumes": (DATA,)}
    return CheckpointIntent(**(values | changes))  # type: ignore[arg-type]


def pids_under(root: Path) -> set[int]:
    """Every QEMU of which anything lies under a folder, by what the kernel says."""
    found: set[int] = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        program = os.fsdecode(words.partition(b"\0")[0])
        if os.fsencode(root) in words and state not in "ZX" and "qemu-system" in program:
            found.add(int(entry.name))
    return found


def ticks(text: str) -> int:
    """How many rounds a guest that counts has printed, in all its lives."""
    return sum(life.count(".") - 3 for life in text.split(BOOTS)[1:])


def prints(text: str) -> tuple[int, bool]:
    """How often a guest that counts was started, and whether it has ever found something else than it had written."""
    lives = text.split(BOOTS)[1:]
    return len(lives), any("E" in re.sub(r"^[^.]*", "", life).partition("SeaBIOS")[0] for life in lives)

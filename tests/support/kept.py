"""Machines with disks and checkpoints on a node in this process: intents, what lies in disks, what is left over."""

from pathlib import Path

from nacre.agent.records import Record
from nacre.agent.storage.directory import found_in
from nacre.agent.storage.layers import MANIFEST, read, tree
from nacre.agent.storage.roots import RootDisks, disk_of
from nacre.agent.vms.machine import Machine
from nacre.agent.volumes.records import VolumeRecord
from nacre.model.checkpoints import CheckpointIntent, CheckpointObserved
from nacre.model.ids import CheckpointId, ProjectId, VmId, VolumeId
from nacre.model.units import MIB
from nacre.model.vms import VmIntent, VmObserved
from nacre.model.volumes import LOCAL_POOL, VolumeAttachment, VolumeIntent, Wish
from support.node import Node
from support.volumes import content, sound
from support.waiting import until

SIZE = 1 * MIB
DATA = VolumeId("vol-00000000000000000000000001")


def checkpoint(number: int, **changes) -> CheckpointIntent:
    """A checkpoint that there should be, unless told otherwise."""
    values = {"id": CheckpointId(f"ckpt-{number:026d}"), "desired": Wish.PRESENT}
    return CheckpointIntent(**(values | changes))


async def with_volume(node: Node, intent: VmIntent, volume: VolumeId = DATA) -> VmIntent:
    """Make a volume and attach it."""
    await node.pools.store(LOCAL_POOL).create(volume, size_bytes=SIZE, base=None, keep_base=True)
    wanted = VolumeIntent(
        id=volume,
        project=ProjectId("prj-1"),
        name="data",
        generation=1,
        desired=Wish.PRESENT,
        pool=LOCAL_POOL,
        size_bytes=SIZE,
    )
    record = VolumeRecord(id=volume, intent=wanted, made=True)
    node.pools.records.save(record)
    node.pools.known[volume] = record
    return VmIntent(**{**_fields(intent), "volumes": (VolumeAttachment(volume=volume),)})


async def kept(node: Node, vm: VmId, number: int, generation: int) -> CheckpointObserved:
    """Wait until a checkpoint is told of, and return what is told."""
    wanted = checkpoint(number).id

    def seen() -> CheckpointObserved | None:
        newest = node.newest(vm)
        if newest is None or newest.generation != generation:
            return None
        return next((one for one in newest.checkpoints if one.id == wanted), None)

    return await until(seen, timeout=60)  # type: ignore[return-value]


async def told(node: Node, vm: VmId, so) -> VmObserved:
    """Wait until what is told of a machine is so."""
    return await until(lambda: (newest := node.newest(vm)) and so(newest) and newest, timeout=60)


def root_path(node: Node, vm: VmId) -> Path:
    """The file that a machine's root disk is written to."""
    folder = node.root / "vms" / vm / "root"
    manifest = read(folder)
    if manifest is not None:
        return folder / manifest.active
    return folder.parent / f"root.{found_in(folder.parent, 'root') or 'qcow2'}"


def volume_path(node: Node, volume: VolumeId = DATA) -> Path:
    """The file that a volume is written to."""
    folder = node.root / "volumes" / volume
    manifest = read(folder)
    assert manifest is not None
    return folder / manifest.active


def disks(node: Node, vm: VmId) -> str:
    """The first letters of the root disk and the volume."""
    return content(root_path(node, vm))[0] + content(volume_path(node))[0]


def check_tidy(node: Node, vm: VmId) -> None:
    """Nothing lies about but what disks and checkpoints are made of, and all of that is sound."""
    place = node.root / "vms" / vm
    for folder in (place / "root", *(node.root / "volumes").glob("*")):
        manifest = read(folder)
        if manifest is None:
            assert not folder.exists(), folder
            continue
        assert manifest.switching is None
        useful = tree(folder, manifest)
        assert {path.name for path in folder.iterdir()} == {*useful, MANIFEST}
        assert all(sound(folder / name) for name in useful)
    assert not [path for path in place.iterdir() if path.name.startswith(".")]
    folders = place / "checkpoints"
    if folders.exists():
        assert all(path.name.startswith("ckpt-") for path in folders.iterdir())


def layers(node: Node, vm: VmId) -> int:
    """How many files a machine's root disk is made of."""
    return len(list((node.root / "vms" / vm / "root").glob("*.qcow2")))


def roots(node: Node) -> RootDisks:
    """The node's root disks."""
    return node.host.roots


def machine(node: Node, intent: VmIntent) -> Machine:
    """A machine as an agent knows it that has just accepted it, without an executor."""
    record = Record(id=intent.id, intent=intent, found_at=node.host.clock.now())
    return Machine(record, node.records, node.host.clock, lambda: 0.0, changed=lambda _machine: None)


def parts(node: Node, vm: VmId) -> set[str]:
    """The checkpoints that a machine's root disk keeps something for."""
    manifest = read(node.root / "vms" / disk_of(vm) / "root")
    return set() if manifest is None else {one.id for one in manifest.snapshots}


def _fields(intent: VmIntent) -> dict:
    return {name: getattr(intent, name) for name in intent.__struct_fields__}

"""Root disks of machines whose hypervisor opens raw disks only: made, kept, put back, and copied from layers."""

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nacre.agent.hypervisors.fake import FakeHypervisor
from nacre.agent.storage.disks import format_of
from nacre.agent.storage.reflink import can_reflink
from nacre.agent.storage.roots import disk_of
from nacre.agent.vms import rootdisk
from nacre.model.capabilities import Capability, Offer
from nacre.model.checkpoints import CheckpointSource, Restoration
from nacre.model.consistency import Consistency
from nacre.model.vms import Desired, Phase
from nacre.model.volumes import DiskFormat
from support.filesystems import with_reflinks
from support.intents import newer, vm_intent
from support.kept import SIZE, check_tidy, checkpoint, kept, machine, parts, root_path, told
from support.node import Node
from support.volumes import content, fill

pytestmark = [pytest.mark.anyio, pytest.mark.host]

Made = Callable[[Path], Node]


class RawOnly(FakeHypervisor):
    """A hypervisor that opens no layers."""

    async def offer(self) -> Offer:
        return {name: support for name, support in (await super().offer()).items() if name != Capability.DISK_QCOW2}


@pytest.fixture(params=["plain", "reflink"])
def place(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder with a short path, for sockets; on a file system with reflinks, or on one that has none."""
    with tempfile.TemporaryDirectory(prefix="nacre-") as folder:
        if request.param == "reflink":
            with with_reflinks(Path(folder)) as mounted:
                yield mounted
        elif can_reflink(Path(folder)):
            pytest.skip("the file system of the tests has reflinks")
        else:
            yield Path(folder)


@pytest.fixture
async def node(place: Path) -> AsyncIterator[Node]:
    made = Node(root=place, driver=RawOnly(state_directory=place))
    yield await made.begin()
    await made.executor.close()
    await made.close()


async def test_it_is_raw_and_is_kept_and_put_back_while_the_machine_is_off(node: Node) -> None:
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    assert [path.name for path in (node.root / "vms" / intent.id).glob("root*")] == ["root.raw"]
    node.want(intent := newer(intent, Desired.STOPPED))
    await node.shows(intent.id, Phase.STOPPED, intent.generation)
    fill(root_path(node, intent.id), "a")
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    assert (seen.failure, seen.consistency, seen.disk_bytes) == (None, Consistency.FILESYSTEM, SIZE)
    fill(root_path(node, intent.id), "b")
    node.want(intent := newer(intent, restore=Restoration(nonce=1, checkpoint=checkpoint(1).id)))
    await told(node, intent.id, lambda found: found.restore_nonce == 1)
    assert content(root_path(node, intent.id))[0] == "a"
    node.want(intent := newer(intent, Desired.RUNNING))
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    assert format_of(root_path(node, intent.id).name) is DiskFormat.RAW
    check_tidy(node, intent.id)
    node.want(intent := newer(intent, Desired.ABSENT))
    await told(node, intent.id, lambda found: found.phase is Phase.ABSENT)
    assert not (node.root / "vms" / intent.id).exists()


async def test_while_the_machine_runs_it_is_kept_where_the_file_system_can(node: Node) -> None:
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    fill(root_path(node, intent.id), "a")
    node.want(intent := newer(intent, checkpoints=(checkpoint(1),)))
    seen = await kept(node, intent.id, 1, intent.generation)
    if can_reflink(node.root):
        assert (seen.failure, seen.consistency) == (None, Consistency.CRASH)
        assert parts(node, intent.id) == {checkpoint(1).id}
    else:
        assert seen.failure is not None
        assert (seen.failure.code, parts(node, intent.id)) == ("live_copy_unsupported", set())
    await node.shows(intent.id, Phase.RUNNING, intent.generation)
    check_tidy(node, intent.id)


@pytest.mark.parametrize("raw", [False, True])
async def test_a_machine_from_a_checkpoint_has_a_disk_that_its_hypervisor_opens(place: Path, raw: bool) -> None:
    drivers = [FakeHypervisor(state_directory=place), RawOnly(state_directory=place)]
    first, second = reversed(drivers) if raw else drivers
    node = await Node(root=place, driver=first).begin()
    origin = vm_intent(disk_bytes=SIZE)
    node.want(origin)
    await node.shows(origin.id, Phase.RUNNING)
    node.want(origin := newer(origin, Desired.STOPPED))
    await node.shows(origin.id, Phase.STOPPED, origin.generation)
    fill(root_path(node, origin.id), "a")
    node.want(origin := newer(origin, checkpoints=(checkpoint(1),)))
    await kept(node, origin.id, 1, origin.generation)
    await node.executor.close()
    node.consoles.close()

    node = Node(root=place, driver=second)
    clone = vm_intent(disk_bytes=2 * SIZE, source=CheckpointSource(vm=origin.id, checkpoint=checkpoint(1).id))
    node.host.place(clone.id).mkdir()
    image = await node.host.images.fetch(clone.image)
    for _ in range(2):
        (disk,) = await rootdisk.ready(machine(node, clone), clone, image, node.host)
        assert disk.format == ("qcow2" if raw else "raw")
        assert content(disk.path)[0] == "a"
        fill(disk.path, "b", offset=65536)
    state = await node.host.roots.look(disk_of(clone.id))
    assert state is not None
    assert state.size_bytes == 2 * SIZE
    assert content(root_path(node, origin.id))[:2] == "a\0"
    check_tidy(node, clone.id)
    node.consoles.close()

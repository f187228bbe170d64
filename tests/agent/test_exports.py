"""Disks on their way to the control plane: whole, of the right moment, one file, never in the way of the machine."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from nacre.agent import exports as module
from nacre.agent.storage import qemu_img
from nacre.errors import NacreError
from nacre.model.checkpoints import Restoration
from nacre.model.exports import BUSY, DiskStatus, DiskWanted
from nacre.model.ids import CheckpointId, VmId
from nacre.model.vms import Desired, Phase
from nacre.model.volumes import Wish
from support.exporting import Came, exported, exports, left, letter, received
from support.intents import newer, vm_intent
from support.kept import SIZE, check_tidy, checkpoint, kept, layers, parts, root_path, told
from support.node import Node
from support.volumes import fill
from support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.host]

ONE, TWO = checkpoint(1).id, checkpoint(2).id
NOWHERE = CheckpointId("ckpt-" + "9" * 26)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    made = Node()
    yield await made.begin()
    await made.close()


async def with_checkpoints(node, *, desired=Desired.RUNNING):
    """A machine with an "a" and then a "b" on its disk, each in a checkpoint, and a "c" by now."""
    intent = vm_intent(disk_bytes=SIZE)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    for number, text in ((1, "a"), (2, "b")):
        fill(root_path(node, intent.id), text)
        node.want(intent := newer(intent, checkpoints=tuple(checkpoint(each) for each in range(1, number + 1))))
        assert (await kept(node, intent.id, number, intent.generation)).failure is None
    fill(root_path(node, intent.id), "c")
    if desired is not Desired.RUNNING:
        node.want(intent := newer(intent, desired))
        await node.shows(intent.id, Phase.STOPPED, intent.generation)
    return intent


@pytest.mark.parametrize("desired", [Desired.RUNNING, Desired.STOPPED])
async def test_the_disk_is_that_of_the_checkpoint_and_one_file(node, tmp_path, desired):
    intent = await with_checkpoints(node, desired=desired)
    for wanted, text in ((ONE, "a"), (TWO, "b")):
        came = await exported(exports(node), intent.id, wanted)
        assert came.said[-1].size_bytes == len(came.data) > 0
        assert all(one.code == "" for one in came.said)
        assert letter(came, tmp_path) == text
    assert left(node) == []
    check_tidy(node, intent.id)


async def test_a_machine_is_put_back_started_and_loses_checkpoints_while_its_disk_is_on_the_way(node, tmp_path):
    intent = await with_checkpoints(node, desired=Desired.STOPPED)
    source = exports(node)
    async with source.opened(intent.id) as one:
        await one.send(msgspec.json.encode(DiskWanted(checkpoint=TWO)))
        frames, came = aiter(one), Came()
        while not came.said or came.said[-1].size_bytes is None:
            came.take(await anext(frames))
        # What it was made of is not there any more before the first byte is read.
        node.want(intent := newer(intent, restore=Restoration(nonce=1, checkpoint=ONE)))
        await told(node, intent.id, lambda seen: seen.restore_nonce == 1)
        gone = tuple(msgspec.structs.replace(checkpoint(n), desired=Wish.ABSENT) for n in (1, 2))
        node.want(intent := newer(intent, Desired.RUNNING, checkpoints=gone))
        await node.shows(intent.id, Phase.RUNNING, intent.generation)
        async for frame in frames:
            came.take(frame)
    assert letter(came, tmp_path) == "b"
    assert parts(node, intent.id) == set()


async def test_layers_are_merged_once_nobody_reads_them_any_more(node, tmp_path, monkeypatch):
    intent = await with_checkpoints(node, desired=Desired.STOPPED)
    going, go_on = asyncio.Event(), asyncio.Event()
    run = qemu_img.run

    async def slow(program, *words, **options):
        if words[0] == "convert":
            going.set()
            await go_on.wait()
        return await run(program, *words, **options)

    monkeypatch.setattr(qemu_img, "run", slow)
    sending = asyncio.create_task(exported(exports(node), intent.id, TWO))
    await going.wait()
    before = layers(node, intent.id)
    gone = msgspec.structs.replace(checkpoint(2), desired=Wish.ABSENT)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1), gone)))
    await told(node, intent.id, lambda seen: len(seen.checkpoints) == 1 and seen.generation == intent.generation)
    assert layers(node, intent.id) == before
    go_on.set()
    assert letter(await sending, tmp_path) == "b"
    await until(lambda: layers(node, intent.id) < before)
    check_tidy(node, intent.id)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (DiskWanted(checkpoint=NOWHERE), "checkpoint_missing"),
        (DiskWanted(checkpoint=CheckpointId("../../../etc")), "invalid_query"),
        ({"no": "question"}, "invalid_query"),
    ],
)
async def test_what_is_not_there_is_refused_for_good_with_words(node, asked, code):
    intent = await with_checkpoints(node)
    async with exports(node).opened(intent.id) as one:
        await one.send(msgspec.json.encode(asked))
        (frame,) = [frame async for frame in one]
    said = msgspec.json.decode(frame, type=DiskStatus)
    assert (said.code, said.retryable, said.size_bytes) == (code, False, None)
    assert said.hint
    assert left(node) == []


async def test_a_machine_without_a_root_disk_has_none_to_send(node):
    intent = vm_intent(disk_bytes=None)
    node.want(intent)
    await node.shows(intent.id, Phase.RUNNING)
    node.want(intent := newer(intent, checkpoints=(checkpoint(1, memory=True),)))
    await kept(node, intent.id, 1, intent.generation)
    (said,) = (await exported(exports(node), intent.id, ONE)).said
    assert said.code == "checkpoint_missing"


async def test_a_copy_that_would_fill_the_disk_is_not_begun(node):
    intent = await with_checkpoints(node)
    (said,) = (await exported(exports(node, reserve_bytes=1 << 60), intent.id, ONE)).said
    assert (said.code, said.retryable) == ("storage_full", True)
    assert left(node) == []


async def test_no_more_disks_than_are_allowed_go_at_once(node, tmp_path):
    intent = await with_checkpoints(node)
    source = exports(node, at_once=1)
    async with source.opened(intent.id) as one:
        with pytest.raises(NacreError) as refused:
            async with source.opened(intent.id):
                pass
        assert (refused.value.code, refused.value.retryable) == (BUSY, True)
        assert letter(await received(one, ONE), tmp_path) == "a"
    assert letter(await exported(source, intent.id, TWO), tmp_path) == "b"


async def test_a_name_that_leads_elsewhere_is_no_machine(node):
    with pytest.raises(NacreError) as refused:
        async with exports(node).opened(VmId("../images")):
            pass
    assert refused.value.code == "vm_not_here"


async def test_how_far_it_is_is_said_while_a_copy_is_made_and_who_leaves_leaves_nothing(node, monkeypatch):
    intent = await with_checkpoints(node)
    monkeypatch.setattr(module, "STATUS_S", 0.01)
    ended = asyncio.Event()

    async def endless(_program, *words, **_options):
        if words[0] == "measure":
            return b'{"required": 1}'
        Path(words[-1]).write_bytes(bytes(8192))
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(qemu_img, "run", endless)
    async with exports(node).opened(intent.id) as one:
        await one.send(msgspec.json.encode(DiskWanted(checkpoint=ONE)))
        async for frame in one:
            said = msgspec.json.decode(frame, type=DiskStatus)
            assert (said.code, said.size_bytes) == ("", None)
            if said.gathered_bytes:
                break
    assert ended.is_set()
    assert left(node) == []


async def test_what_a_killed_agent_has_left_goes_when_one_begins(node):
    litter = node.host.exports / "0123" / "layers"
    litter.mkdir(parents=True)
    (litter / "one.qcow2").write_bytes(b"old")
    await exports(node).begin()
    assert left(node) == []


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv is missing")
async def test_a_program_that_nobody_goes_on_with_ends_with_its_agent():
    """The agent is killed in the middle: its qemu-img does not go on filling the disk."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "qemu-img"
        script.write_text(f"#!/bin/sh\necho $$ >{place}/new && mv {place}/new {place}/pid; exec sleep 1000\n")
        script.chmod(0o755)
        code = (
            "import asyncio; from nacre.agent.storage import qemu_img; "
            f"asyncio.run(qemu_img.run({str(script)!r}, 'convert', bound=True))"
        )
        agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        await until((Path(place) / "pid").exists, timeout=60)
        pid = int((Path(place) / "pid").read_text())
        agent.kill()
        await agent.wait()

        def gone() -> bool:
            status = Path(f"/proc/{pid}/stat")
            return not status.exists() or status.read_text().rpartition(")")[2].split()[0] in "ZX"

        await until(gone)

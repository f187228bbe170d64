"""Which file a disk of a running guest is written to: another one from now on, and merging what lies below.

Called by `live`, which lets one change happen at a time, and by `hotplug`, `limiting` and `moving`, which ask what
there is. A disk begins as one block node that has its name; every switch puts one on top, named after its file, until
it is unplugged. https://www.qemu.org/docs/master/interop/live-block-operations.html
"""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.answers import Node
from nacre.agent.hypervisors.qemu.command_line.places import device_of, node_of
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.words import Props
from nacre.agent.hypervisors.qemu.talk import Talk

_LOOK_S = 0.05
_FORMAT = "qcow2"
_MERGE = "merge-"


async def written(talk: Talk, disk: str) -> Node | None:
    """Return the node that the device of a disk leads to; None for one that another process serves."""
    for drive in await talk.ask(list[answers.Drive], "query-block"):
        if device_of(disk) in Path(drive.qdev).parts and drive.inserted is not None:
            return (await talk.nodes()).get(drive.inserted.node_name)
    return None


async def switch(talk: Talk, disk: str, layer: DiskFile) -> None:
    """Have the guest write to an overlay. Raises DriverError; then it writes where it did."""
    nodes = await talk.nodes()
    now = await _format_node(talk, disk, nodes)
    if path_of(now.file) == layer.path:
        return
    name = layer_of(disk, layer.path)
    if name not in nodes:
        storage: Props = {"driver": "file", "filename": str(layer.path)}
        node: Props = {"driver": layer.format, "node-name": name, "file": storage, "discard": "unmap"}
        await talk.execute("blockdev-add", {**node, "backing": None})
    await talk.execute("blockdev-snapshot", {"node": now.node_name, "overlay": name})


async def merge(talk: Talk, layer: Path) -> None:
    """Copy a layer into the one above and leave it out from then on. Raises DriverError; then it is still needed."""
    above = await _above(talk, layer)
    if above is None:
        return  # nothing here reads it
    job = f"{_MERGE}{_digest(layer)}"
    if job not in await _jobs(talk):
        needless = next(one for one in (await talk.nodes()).values() if _is(one, layer))
        below = needless.backing_file
        keeps = next((one for one in (await talk.nodes()).values() if _is(one, path_of(below))), None)
        if not below or keeps is None:
            raise refused("layer_is_lowest", "the lowest layer of a disk cannot be merged", "leave it")
        arguments = {"device": above.node_name, "base-node": keeps.node_name, "job-id": job}
        await talk.execute("block-stream", {**arguments, "backing-file": path_of(below).name})
    while job in await _jobs(talk):  # noqa: ASYNC110  # events are lost with connections; this is not
        await asyncio.sleep(_LOOK_S)
    if await _above(talk, layer) is not None:
        raise DriverError(
            "layer_not_merged",
            "two layers of a disk could not be merged while the machine runs",
            hint="is the node's storage full? It is tried again",
        )


async def leave(talk: Talk) -> None:
    """Stop merging, of all disks: what is not merged yet is still needed. Returns when no layer is being merged."""
    while merging := [job for job in await _jobs(talk) if job.startswith(_MERGE)]:
        for job in merging:
            await talk.attempt("block-job-cancel", {"device": job})
        await asyncio.sleep(_LOOK_S)


async def clear(talk: Talk, disk: str) -> list[str]:
    """Return the nodes of a disk that are on top of others, the uppermost first: what is to be deleted when it goes."""
    nodes = await talk.nodes()
    limits = nodes.get(node_of(disk))
    first = [node_of(disk)] if limits is not None and limits.drv != _FORMAT else []
    prefix = layer_of(disk, None)
    mine = {name: node for name, node in nodes.items() if name.startswith(prefix)}
    below = {name: path_of(node.backing_file) for name, node in mine.items()}
    ordered: list[str] = first
    while mine:
        read = {below[name] for name in mine}
        top = next((name for name, node in mine.items() if path_of(node.file) not in read), next(iter(mine)))
        ordered.append(top)
        del mine[top]
    return ordered


def layer_of(disk: str, path: Path | None) -> str:
    """Name the node of a layer. Without a path, what the names of all layers of a disk begin with. Pure."""
    return f"layer-{_digest(disk)}-" + ("" if path is None else _digest(path))


def path_of(name: str) -> Path:
    """Read a file's name as QEMU writes it: plain, or as an object where it has options of its own. Pure."""
    if not name.startswith("json:"):
        return Path(name)
    found: object = msgspec.json.decode(name.removeprefix("json:"))
    while isinstance(found, dict):
        inner: dict[str, object] = found  # pyright: ignore[reportUnknownVariableType]  # JSON objects have such keys
        found = inner.get("filename", inner.get("file"))
    return Path(str(found))


async def _format_node(talk: Talk, disk: str, nodes: Mapping[str, Node]) -> Node:
    """Return the node that knows the format of what is written, which lies under the limits if there are any."""
    top = await written(talk, disk)
    if top is None:
        raise refused("disk_unknown", f"the running machine has no disk {disk}", "connect it first")
    if top.drv == _FORMAT:
        return top
    under = [one for one in nodes.values() if one.drv == _FORMAT and path_of(one.file) == path_of(top.file)]
    if not under:
        raise refused(
            "live_snapshot_unsupported",
            f"disk {disk} has no format that keeps what was there",
            "stop the machine first",
        )
    return next((one for one in under if one.node_name != node_of(disk)), under[0])


async def _above(talk: Talk, layer: Path) -> Node | None:
    nodes = (await talk.nodes()).values()
    return next((one for one in nodes if one.drv == _FORMAT and path_of(one.backing_file) == layer), None)


async def _jobs(talk: Talk) -> set[str]:
    return {job.id for job in await talk.ask(list[answers.Job], "query-jobs")}


def _is(node: Node, path: Path) -> bool:
    return node.drv == _FORMAT and path_of(node.file) == path


def _digest(name: str | Path) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()[:10]

"""The whole desired state of one node. `build` is pure; `load` reads what it needs. Called by the agent's link."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, TypeVar

import msgspec

from nacre.control.auth.sealing import Sealer
from nacre.control.gateway import checkpoint_intents, volume_intents
from nacre.control.gateway.checkpoint_intents import Kept
from nacre.control.gateway.volume_intents import NOTHING, NodeStorage, Storage
from nacre.control.services import images, vm_room, vm_seeds
from nacre.control.services.nodes import TEARDOWN_ALLOWED_FOR
from nacre.control.store import copies, move_streams, moves, nodes, vms
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Read
from nacre.control.store.move_streams import StreamRow
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeTerms
from nacre.control.store.vms import VmRow
from nacre.model.arrivals import Room, VmArrival
from nacre.model.copies import CopyRef, CopyState, RetiredVm
from nacre.model.guests import CloudInit
from nacre.model.ids import ImageId, NodeId, StreamId, VmId
from nacre.model.images import ImageManifest
from nacre.model.migrations import DOWNTIME_MS, Outgoing
from nacre.model.vms import Desired, VmIntent
from nacre.model.volumes import VolumeAttachment
from nacre.protocol.messages import NodeIntent


class _Placed(Protocol):
    @property
    def node(self) -> NodeId | None: ...


P = TypeVar("P", bound=_Placed)

NO_SEEDS: Mapping[VmId, CloudInit] = MappingProxyType({})


async def load(rd: Read, node: NodeId, sealer: Sealer | None = None) -> NodeIntent:
    """Return everything that a node should run, hold and forget."""
    return (await load_all(rd, [node], sealer))[node]


async def load_all(rd: Read, among: Collection[NodeId], sealer: Sealer | None = None) -> dict[NodeId, NodeIntent]:
    """Return what `load` does, for many nodes in a few statements."""
    owners = await nodes.terms(rd, among)
    rows = _by_node(await vms.on_nodes(rd, among))
    left = _by_node(await copies.on_nodes(rd, among))
    live = await moves.live(rd, among)
    streams = await move_streams.many(rd, {move.stream for move in live if move.stream is not None})
    coming = {row.id: row for row in await vms.many(rd, {move.vm for move in live})} if live else {}
    shown = list({row.id: row for some in (*rows.values(), coming.values()) for row in some}.values())
    storage = await volume_intents.load(rd, among, [row.id for row in shown], sealer, coming=coming)
    manifests = await images.manifests(rd, {row.image for row in shown} | storage.images())
    kept = await checkpoint_intents.load(rd, [row for some in rows.values() for row in some])
    captured = await images.captured(rd, {row.image for row in shown})
    seeded = [
        row.id for row in shown if row.spec.cloud_init is not None or row.source is not None or row.image in captured
    ]
    seeds = await vm_seeds.opened(rd, seeded, sealer)
    return {
        node: build(
            rows.get(node, ()),
            manifests,
            left.get(node, ()),
            seeds,
            tenure=owners[node].tenure if node in owners else 0,
            allowed=node in owners and _allowed(owners[node], rd.now()),
            storage=storage.of(node, manifests),
            orders=_orders(node, live, streams),
            arrivals=_arrivals(node, live, coming, manifests, seeds, storage),
            kept=kept,
        )
        for node in among
    }


def build(
    rows: Sequence[VmRow],
    manifests: Mapping[ImageId, ImageManifest],
    left: Sequence[CopyRow] = (),
    seeds: Mapping[VmId, CloudInit] = NO_SEEDS,
    *,
    tenure: int = 0,
    allowed: bool,
    storage: NodeStorage = NOTHING,
    orders: Mapping[VmId, Outgoing] = MappingProxyType({}),
    arrivals: Sequence[VmArrival] = (),
    kept: Kept = checkpoint_intents.NOTHING,
) -> NodeIntent:
    """Return the intent for the machines placed on a node, in a stable order.

    Teardown is allowed by an operator's word (`allowed`), or because a person asked for every single deletion: the
    agent's guard is for what no person asked for, such as a database restored from the wrong day.
    """
    ordered = sorted(rows, key=lambda row: row.id)
    absent = [row for row in ordered if row.desired is Desired.ABSENT]
    askers = [*(row.delete_requested_by for row in absent), *storage.delete_requested_by]
    asked_for = bool(askers) and all(by is not None for by in askers)
    return NodeIntent(
        vms=tuple(
            _intent(
                row,
                manifests.get(row.image),
                storage.attached.get(row.id, ()),
                seeds.get(row.id),
                kept,
                orders.get(row.id),
            )
            for row in ordered
        ),
        images=tuple(
            sorted(
                {row.image for row in ordered if row.desired is not Desired.ABSENT}
                | {arrival.vm.image.id for arrival in arrivals}
                | storage.images
            )
        ),
        pools=storage.pools,
        volumes=storage.volumes,
        teardown_allowed=allowed or asked_for,
        tenure=tenure,
        retired=tuple(RetiredVm(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.RETIRING),
        discard=tuple(CopyRef(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.DISCARDING),
        arrivals=tuple(arrivals),
    )


def _orders(node: NodeId, live: Iterable[MoveRow], streams: Mapping[StreamId, StreamRow]) -> dict[VmId, Outgoing]:
    """Return the machines that a node is to send."""
    orders: dict[VmId, Outgoing] = {}
    for move in live:
        stream = streams.get(move.stream) if move.stream is not None else None
        if move.source == node and move.ordered and stream is not None:
            orders[move.vm] = Outgoing(
                stream=stream.id,
                target=stream.target,
                addresses=tuple(stream.addresses),
                bandwidth_bytes=move.bandwidth_bytes,
                downtime_ms=move.downtime_ms or DOWNTIME_MS,
            )
    return orders


def _arrivals(
    node: NodeId,
    live: Iterable[MoveRow],
    rows: Mapping[VmId, VmRow],
    manifests: Mapping[ImageId, ImageManifest],
    seeds: Mapping[VmId, CloudInit],
    storage: Storage,
) -> tuple[VmArrival, ...]:
    """Return the machines that a node is to take in, with the tokens that they will have there."""
    found: list[VmArrival] = []
    for move in live:
        row = rows.get(move.vm)
        if move.target == node and move.stream is not None and row is not None:
            there = replace(row, fence=row.fence + 1)
            disks = storage.attached_to(row.id)
            intent = _intent(there, manifests.get(row.image), disks, seeds.get(row.id), checkpoint_intents.NOTHING)
            homes = tuple(storage.homes[one.volume] for one in disks if one.volume in storage.homes)
            found.append(VmArrival(stream=move.stream, source=move.source, vm=intent, volumes=homes, room=_room(row)))
    return tuple(found)


def _room(row: VmRow) -> Room:
    """Return what the target keeps free for a machine that is about to come."""
    root = row.reserved_disk_bytes - vm_room.volume_bytes(row)
    return Room(cpus=row.reserved_cpus, memory_bytes=row.reserved_memory_bytes, disk_bytes=root)


def _allowed(owner: NodeTerms, now: datetime) -> bool:
    said_at = owner.teardown_allowed_at
    return said_at is not None and now - said_at < TEARDOWN_ALLOWED_FOR


def _by_node(rows: Iterable[P]) -> dict[NodeId, list[P]]:
    found: dict[NodeId, list[P]] = {}
    for row in rows:
        if row.node is not None:
            found.setdefault(row.node, []).append(row)
    return found


def _intent(
    row: VmRow,
    manifest: ImageManifest | None,
    attached: tuple[VolumeAttachment, ...],
    seed: CloudInit | None,
    kept: Kept,
    order: Outgoing | None = None,
) -> VmIntent:
    return VmIntent(
        id=row.id,
        project=row.project,
        name=row.name,
        generation=row.generation,
        desired=Desired.STOPPED if row.moving is not None and row.desired is not Desired.ABSENT else row.desired,
        spec=row.spec,
        image=manifest or ImageManifest(id=row.image, artifacts=()),
        reboot_nonce=row.reboot_nonce,
        reset_nonce=row.reset_nonce,
        force_stop=row.force_stop,
        fence=row.fence,
        volumes=attached,
        seed=None if seed is None else _named(seed, row),
        outgoing=order,
        arrived_by=row.arrived_by,
        checkpoints=kept.of(row.id),
        restore=row.restore,
        source=row.source,
    )


def _named(seed: CloudInit, row: VmRow) -> CloudInit:
    """What the guest is given. Unless told otherwise it calls itself as its machine is called."""
    return seed if seed.hostname else msgspec.structs.replace(seed, hostname=row.name)

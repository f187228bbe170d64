"""The whole desired state of one node. `build` is pure; `load` reads what it needs. Called by the agent's link."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, TypeVar

import msgspec

from nacre.control.auth.sealing import Sealer
from nacre.control.gateway import volume_intents
from nacre.control.gateway.volume_intents import NOTHING, NodeStorage
from nacre.control.services import images, vm_seeds
from nacre.control.services.nodes import TEARDOWN_ALLOWED_FOR
from nacre.control.store import copies, nodes, vms
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Read
from nacre.control.store.nodes import NodeTerms
from nacre.control.store.vms import VmRow
from nacre.model.guests import CloudInit
from nacre.model.ids import ImageId, NodeId, VmId
from nacre.model.images import ImageManifest
from nacre.model.vms import CopyRef, CopyState, Desired, RetiredVm, VmIntent
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
    storage = await volume_intents.load(rd, among, [row.id for some in rows.values() for row in some], sealer)
    needed = {row.image for some in rows.values() for row in some} | storage.images()
    manifests = await images.manifests(rd, needed)
    seeded = [row.id for some in rows.values() for row in some if row.spec.cloud_init is not None]
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
            _intent(row, manifests.get(row.image), storage.attached.get(row.id, ()), seeds.get(row.id))
            for row in ordered
        ),
        images=tuple(sorted({row.image for row in ordered if row.desired is not Desired.ABSENT} | storage.images)),
        pools=storage.pools,
        volumes=storage.volumes,
        teardown_allowed=allowed or asked_for,
        tenure=tenure,
        retired=tuple(RetiredVm(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.RETIRING),
        discard=tuple(CopyRef(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.DISCARDING),
    )


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
    row: VmRow, manifest: ImageManifest | None, attached: tuple[VolumeAttachment, ...], seed: CloudInit | None
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
    )


def _named(seed: CloudInit, row: VmRow) -> CloudInit:
    """What the guest is given. Unless told otherwise it calls itself as its machine is called."""
    return seed if seed.hostname else msgspec.structs.replace(seed, hostname=row.name)

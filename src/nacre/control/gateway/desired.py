"""The whole desired state of one node. `build` is pure; `load` reads what it needs. Called by the agent's link."""

from collections.abc import Mapping, Sequence

from nacre.control.services import images
from nacre.control.services.nodes import TEARDOWN_ALLOWED_FOR
from nacre.control.store import copies, nodes, vms
from nacre.control.store.copies import CopyRow
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow
from nacre.model.ids import ImageId, NodeId
from nacre.model.images import ImageManifest
from nacre.model.vms import CopyRef, CopyState, Desired, RetiredVm, VmIntent
from nacre.protocol.messages import NodeIntent


async def load(rd: Read, node: NodeId) -> NodeIntent:
    """Return everything that a node should run, hold and forget."""
    owner = await nodes.get(rd, node)
    rows = await vms.on_node(rd, node)
    manifests = await images.manifests(rd, {row.image for row in rows})
    left = await copies.on_node(rd, node)
    said_at = owner.teardown_allowed_at if owner is not None else None
    allowed = said_at is not None and rd.now() - said_at < TEARDOWN_ALLOWED_FOR
    return build(rows, manifests, left, tenure=owner.tenure if owner is not None else 0, allowed=allowed)


def build(
    rows: Sequence[VmRow],
    manifests: Mapping[ImageId, ImageManifest],
    left: Sequence[CopyRow] = (),
    *,
    tenure: int = 0,
    allowed: bool,
) -> NodeIntent:
    """Return the intent for the machines placed on a node, in a stable order.

    Teardown is allowed by an operator's word (`allowed`), or because a person asked for every single deletion: the
    agent's guard is for what no person asked for, such as a database restored from the wrong day.
    """
    ordered = sorted(rows, key=lambda row: row.id)
    absent = [row for row in ordered if row.desired is Desired.ABSENT]
    asked_for = bool(absent) and all(row.delete_requested_by is not None for row in absent)
    return NodeIntent(
        vms=tuple(_intent(row, manifests.get(row.image)) for row in ordered),
        images=tuple(sorted({row.image for row in ordered if row.desired is not Desired.ABSENT})),
        teardown_allowed=allowed or asked_for,
        tenure=tenure,
        retired=tuple(RetiredVm(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.RETIRING),
        discard=tuple(CopyRef(id=copy.vm, fence=copy.fence) for copy in left if copy.state is CopyState.DISCARDING),
    )


def _intent(row: VmRow, manifest: ImageManifest | None) -> VmIntent:
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
    )

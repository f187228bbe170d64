"""Machines as they are shown: rows to `VmOut`. Used by the services of machines."""

from nacre.control.scheduler.explain import summary
from nacre.control.services.preconditions import etag_of
from nacre.control.store import vms as store
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow, VmView
from nacre.model.convergence import Conditions, derive
from nacre.model.ids import VmId
from nacre.model.nodes import LOST
from nacre.model.vms import Phase, restart_required, satisfies
from nacre.schema.common import ProjectRef
from nacre.schema.vms import ImageRef, NodeRef, VmOut


async def shown(rd: Read, vm: VmId) -> VmOut:
    """Return a machine that exists as it is now."""
    return out(await store.view(rd, vm))


def out(view: VmView) -> VmOut:
    """Show a row. A machine whose node is out of reach is in an unknown phase, whatever was last seen."""
    conditions = conditions_of(view, reachable=view.node_state not in LOST)
    return VmOut(
        id=view.id,
        name=view.name,
        project=ProjectRef(id=view.project, name=view.project_name),
        labels=view.labels,
        spec=view.spec,
        image=ImageRef(id=view.image, name=view.image_name),
        desired=view.desired,
        phase=Phase(conditions.phase),
        since=view.since,
        node=None if view.node is None else NodeRef(id=view.node, name=view.node_name or ""),
        run=view.run,
        conditions=conditions,
        restart_required=restart_required(view.spec, view.run),
        fence=view.fence,
        guest=view.guest,
        decision="" if view.decision is None else summary(view.decision)[1],
        created_at=view.created_at,
        updated_at=view.updated_at,
        etag=etag_of(view.generation),
    )


def conditions_of(row: VmRow, *, reachable: bool = True) -> Conditions:
    """Return how far a machine is from what was asked."""
    nonces = row.applied_reboot_nonce >= row.reboot_nonce and row.applied_reset_nonce >= row.reset_nonce
    return derive(
        generation=row.generation,
        observed_generation=row.observed_generation,
        satisfied=reachable and nonces and satisfies(row.desired, row.phase),
        phase=row.phase if reachable else Phase.UNKNOWN,
        failure=row.failure,
    )

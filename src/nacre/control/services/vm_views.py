"""Machines as they are shown: rows to `VmOut`. Used by the services of machines."""

from nacre.control.scheduler.explain import summary
from nacre.control.services.preconditions import etag_of
from nacre.control.store import vms as store
from nacre.control.store.db import Read
from nacre.control.store.vms import VmRow, VmView
from nacre.model.convergence import Conditions, derive
from nacre.model.ids import VmId, VolumeId
from nacre.model.nodes import LOST
from nacre.model.vm_changes import pending, restart_required
from nacre.model.vms import Desired, Phase, satisfies
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
        restart_required=restart_required(view.spec, view.run, _wanted(view)),
        fence=view.fence,
        template=None if view.origins is None else view.origins.template,
        instance_type=None if view.origins is None else view.origins.instance_type,
        guest=view.guest,
        checkpoints=view.checkpoints,
        decision="" if view.decision is None else summary(view.decision)[1],
        created_at=view.created_at,
        updated_at=view.updated_at,
        etag=etag_of(view.generation),
    )


def conditions_of(row: VmRow, *, checkpoints: bool = True, reachable: bool = True) -> Conditions:
    """Return how far a machine is from what was asked. `checkpoints` says whether those are as they should be."""
    run = row.run if row.run is not None and row.run.exited_at is None else None
    plugged = run is None or not run.hotplug or frozenset(run.volumes) == _wanted(row)
    changed = row.desired is not Desired.RUNNING or not pending(row.spec, row.run)
    nonces = row.applied_reboot_nonce >= row.reboot_nonce and row.applied_reset_nonce >= row.reset_nonce
    restored = row.restore is None or row.applied_restore_nonce >= row.restore.nonce
    nonces = nonces and restored and checkpoints
    return derive(
        generation=row.generation,
        observed_generation=row.observed_generation,
        satisfied=reachable and nonces and plugged and changed and satisfies(row.desired, row.phase),
        phase=row.phase if reachable else Phase.UNKNOWN,
        failure=row.failure,
    )


def _wanted(row: VmRow) -> frozenset[VolumeId]:
    return frozenset(row.tie.volumes) if row.tie is not None else frozenset()

"""Instance types: named sizes of a project or of the platform. Machines keep what they were made with.

Called by the API. How a machine gets the size of one is in `vm_sources` and `vm_layers`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events, projects, template_views, vm_layers
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.services.template_lookup import find_type, missing_type
from nacre.control.store import instance_types as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.instance_types import InstanceTypeRow
from nacre.control.store.listing import ListQuery
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.ids import InstanceTypeId
from nacre.model.metadata import check_labels, check_name
from nacre.schema import templates
from nacre.schema.common import Page
from nacre.schema.instance_types import NOT_SIZES, InstanceTypeCreate, InstanceTypeOut, InstanceTypeUpdate
from nacre.schema.vms import VmConfig


async def create(tx: Tx, caller: Caller, body: InstanceTypeCreate) -> InstanceTypeOut:
    """Make an instance type. One of the platform needs a role there. Raises ConflictError if the name is taken."""
    project = None if body.project is None else await projects.require(tx, caller, body.project)
    if project is None:
        policy.require(caller, PLATFORM)
    now = tx.now()
    row = InstanceTypeRow(
        id=InstanceTypeId(tx.new_id("instance-type")),
        project=None if project is None else project.id,
        name=check_name(body.name),
        description=body.description,
        labels=check_labels(body.labels),
        config=check_size(vm_layers.config_of(vm_layers.given(body.config))),
        revision=1,
        created_by=caller.actor.name,
        created_at=now,
        updated_at=now,
    )
    where = "on the platform" if project is None else f"in project {project.name}"
    taken = ConflictError(
        "instance_type_exists",
        f"there is an instance type {row.name} {where} already",
        hint="choose another name, or change that one",
        field="name",
    )
    await store.add(tx, row, taken=taken)
    _tell(tx, caller, row, "created", {"after": _told(row)})
    return await _shown(tx, row)


async def show(rd: Read, caller: Caller, ref: str, *, project: str | None = None) -> InstanceTypeOut:
    """Return an instance type, by id or by name. Raises NotFoundError."""
    return await _shown(rd, await find_type(rd, caller, ref, project))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[InstanceTypeOut]:
    """Return the instance types of one project, or of all that the caller sees, and those of the platform."""
    visible: Collection[str] | None = policy.visible_projects(caller)
    if query.project is not None:
        asked = await projects.resolve(rd, query.project)
        if visible is not None and asked.id not in visible:
            raise projects.missing(query.project)
        visible = {asked.id}
    rows, following = await store.page(rd, query, visible)
    return Page(items=await template_views.types_shown(rd, rows), next=following)


async def update(
    tx: Tx,
    caller: Caller,
    ref: str,
    body: InstanceTypeUpdate,
    *,
    project: str | None = None,
    if_match: str | None = None,
) -> InstanceTypeOut:
    """Change what `body` gives, as a new revision. What changes nothing makes none."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.revision))
    changed = replace(
        row,
        description=row.description if body.description is None else body.description,
        labels=row.labels if body.labels is None else check_labels(body.labels),
        config=check_size(vm_layers.changed(row.config, body.config, body.clear)),
    )
    if changed != row:
        changed = replace(changed, revision=row.revision + 1, updated_at=tx.now())
        await store.save(tx, changed)
        old, new = _told(row), _told(changed)
        names = [name for name in new if old[name] != new[name]]
        details = {"before": {name: old[name] for name in names}, "after": {name: new[name] for name in names}}
        _tell(tx, caller, changed, "updated", details)
    return await _shown(tx, changed)


async def delete(tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None) -> None:
    """Delete an instance type. Machines that were made from it stay as they are, and remember its name."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.revision))
    await store.remove(tx, row.id)
    _tell(tx, caller, row, "deleted", {"before": {"revision": row.revision}})


def check_size(config: VmConfig) -> VmConfig:
    """Return a configuration if an instance type may give it. Raises InvalidInputError. Pure."""
    values = vm_layers.given(config)
    for name in values:
        if name in NOT_SIZES or name in templates.SECRET_FIELDS:
            raise InvalidInputError(
                "not_of_instance_type",
                f"an instance type cannot give {name}",
                hint="put it into a template, or give it with the machine",
                field=f"config.{name}",
            )
    if not values:
        raise InvalidInputError(
            "empty_instance_type",
            "an instance type that gives nothing is none",
            hint="give cpus, memory_bytes or another part of a configuration",
            field="config",
        )
    return config


async def _own(tx: Tx, caller: Caller, ref: str, project: str | None) -> InstanceTypeRow:
    """Return an instance type that the caller may do the declared action on, locked."""
    found = await find_type(tx, caller, ref, project)
    policy.require(caller, found.project or PLATFORM)
    row = await store.get(tx, found.id, lock=True)
    if row is None:
        raise missing_type(ref)
    return row


async def _shown(rd: Read, row: InstanceTypeRow) -> InstanceTypeOut:
    return (await template_views.types_shown(rd, [await store.view(rd, row.id)]))[0]


def _told(row: InstanceTypeRow) -> dict[str, Any]:
    return {
        "revision": row.revision,
        "description": row.description,
        "labels": row.labels,
        "config": msgspec.to_builtins(vm_layers.given(row.config)),
    }


def _tell(tx: Tx, caller: Caller, row: InstanceTypeRow, verb: str, details: Mapping[str, Any]) -> None:
    events.emit(
        tx,
        type=f"instance-type.{verb}",
        actor=caller.actor,
        noun="instance-type",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"{caller.actor.name} {verb} instance type {row.name}"
        + (f", now in revision {row.revision}" if verb == "updated" else ""),
        request_id=caller.request_id,
        details=dict(details),
    )

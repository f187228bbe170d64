"""Templates: configurations that machines are made from. Every change is a revision; no change touches a machine.

Called by the API. How a machine is made from one is in `vm_sources` and `vm_layers`.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.services import events, image_lookup, projects, template_views, vm_layers, vms
from nacre.control.services.preconditions import etag_of, require_match
from nacre.control.services.template_capture import capture
from nacre.control.services.template_lookup import find, missing
from nacre.control.store import images
from nacre.control.store import templates as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.listing import ListQuery
from nacre.control.store.templates import TemplateRow
from nacre.errors import ConflictError, InvalidInputError
from nacre.model.ids import ProjectId, TemplateId
from nacre.model.images import Visibility
from nacre.model.metadata import check_labels, check_name
from nacre.model.templates import Layer
from nacre.schema import templates as schema
from nacre.schema.common import Page
from nacre.schema.templates import RevisionOut, TemplateCreate, TemplateOut, TemplateUpdate
from nacre.schema.vms import VmConfig


async def create(tx: Tx, caller: Caller, body: TemplateCreate) -> TemplateOut:
    """Make a template. Raises ConflictError if the name is taken in its project."""
    project = await projects.require(tx, caller, body.project)
    if body.visibility is Visibility.PUBLIC:
        policy.require(caller, PLATFORM)
    layers = [(Layer.REQUEST, body.config)]
    if body.from_vm is not None:
        layers.append((Layer.TEMPLATE, await _of_machine(tx, caller, body.from_vm, project.id)))
    config = vm_layers.merge(layers).config
    now = tx.now()
    row = TemplateRow(
        id=TemplateId(tx.new_id("template")),
        project=project.id,
        name=check_name(body.name),
        description=body.description,
        labels=check_labels(body.labels),
        visibility=body.visibility,
        config=await _checked(tx, caller, config, project.id, body.visibility),
        revision=1,
        created_by=caller.actor.name,
        created_at=now,
        updated_at=now,
    )
    taken = ConflictError(
        "template_exists",
        f"there is a template {row.name} in project {project.name} already",
        hint="choose another name, or change that one: every change is a revision of it",
        field="name",
    )
    await store.add(tx, row, taken=taken)
    _tell(tx, caller, row, "created", {"after": _told(row)})
    return await _shown(tx, caller, row)


async def show(rd: Read, caller: Caller, ref: str, *, project: str | None = None) -> TemplateOut:
    """Return a template, by id or by name. Raises NotFoundError."""
    return await _shown(rd, caller, await find(rd, caller, ref, project))


async def list_(rd: Read, caller: Caller, query: ListQuery) -> Page[TemplateOut]:
    """Return the templates of one project, or of all that the caller sees, and the public ones of any."""
    visible: Collection[str] | None = policy.visible_projects(caller)
    if query.project is not None:
        asked = await projects.resolve(rd, query.project)
        if visible is not None and asked.id not in visible:
            raise projects.missing(query.project)
        visible = {asked.id}
    rows, following = await store.page(rd, query, visible)
    return Page(items=await template_views.shown(rd, caller, rows), next=following)


async def revisions(
    rd: Read, caller: Caller, ref: str, query: ListQuery, *, project: str | None = None
) -> Page[RevisionOut]:
    """Return what a template has said, by default the newest first."""
    row = await find(rd, caller, ref, project)
    found, following = await store.history(rd, row.id, replace(query, sort=query.sort or "-revision"))
    return Page(items=[template_views.revision(caller, row, one) for one in found], next=following)


async def update(
    tx: Tx, caller: Caller, ref: str, body: TemplateUpdate, *, project: str | None = None, if_match: str | None = None
) -> TemplateOut:
    """Change what `body` gives, as a new revision. What changes nothing makes none."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.revision))
    visibility = body.visibility or row.visibility
    if visibility is not row.visibility:
        policy.require(caller, PLATFORM)
    config = vm_layers.changed(row.config, body.config, body.clear)
    if config != row.config or visibility is not row.visibility:
        config = await _checked(tx, caller, config, row.project, visibility, before=row.config)
    changed = replace(
        row,
        description=row.description if body.description is None else body.description,
        labels=row.labels if body.labels is None else check_labels(body.labels),
        visibility=visibility,
        config=config,
    )
    if changed != row:
        changed = replace(changed, revision=row.revision + 1, updated_at=tx.now())
        await store.save(tx, changed, by=caller.actor.name)
        _tell(tx, caller, changed, "updated", _difference(row, changed))
    return await _shown(tx, caller, changed)


async def delete(tx: Tx, caller: Caller, ref: str, *, project: str | None = None, if_match: str | None = None) -> None:
    """Delete a template with its revisions. Machines that were made from it stay, and remember its name."""
    row = await _own(tx, caller, ref, project)
    require_match(if_match, etag_of(row.revision))
    await store.remove(tx, row.id)
    _tell(tx, caller, row, "deleted", {"before": {"revision": row.revision}})


async def _of_machine(tx: Tx, caller: Caller, ref: str, project: ProjectId) -> VmConfig:
    """Return the configuration of a machine of the same project that the caller may see."""
    vm = await vms.resolve(tx, caller, ref, project)
    policy.require(caller, vm.project, action="vm:view")
    if vm.project != project:
        raise InvalidInputError(
            "vm_of_other_project",
            f"machine {vm.name} belongs to another project than the template would",
            hint="make the template in the project of the machine",
            field="from_vm",
        )
    return capture(vm.spec, vm.labels)


async def _checked(
    tx: Tx,
    caller: Caller,
    config: VmConfig,
    project: ProjectId,
    visibility: Visibility,
    *,
    before: VmConfig | None = None,
) -> VmConfig:
    """Return a configuration whose image is named by id, and may be used by whoever may use the template.

    Whether its fields fit together is judged where a machine is made of it: the image and the size may change that.
    """
    check_labels(config.labels, field="config.labels")
    if config.image is None:
        return config
    if before is None or config.image != before.image:
        try:
            found = await image_lookup.usable(tx, caller, config.image, project)
        except (ConflictError, InvalidInputError) as error:
            error.field = "config.image"
            raise
        config = msgspec.structs.replace(config, image=found.id)
    image = await images.get(tx, config.image or "")
    if visibility is Visibility.PUBLIC and image is not None and image.visibility is not Visibility.PUBLIC:
        raise ConflictError(
            "template_image_private",
            f"image {image.name} is private, so other projects could not use the template",
            hint="make the image public first, or leave it out of the template",
            field="visibility",
        )
    return config


async def _own(tx: Tx, caller: Caller, ref: str, project: str | None) -> TemplateRow:
    """Return a template that the caller may do the declared action on, locked."""
    found = await find(tx, caller, ref, project)
    policy.require(caller, found.project)
    row = await store.get(tx, found.id, lock=True)
    if row is None:
        raise missing(ref)
    return row


async def _shown(rd: Read, caller: Caller, row: TemplateRow) -> TemplateOut:
    return (await template_views.shown(rd, caller, [await store.view(rd, row.id)]))[0]


def _told(row: TemplateRow) -> dict[str, Any]:
    """What an event may say of a template: all but what is secret."""
    config, hidden = vm_layers.without(row.config, schema.SECRET_FIELDS)
    said: dict[str, Any] = {
        "revision": row.revision,
        "visibility": row.visibility.value,
        "description": row.description,
        "labels": row.labels,
        "config": msgspec.to_builtins(vm_layers.given(config)),
    }
    return {**said, "hidden": list(hidden)} if hidden else said


def _difference(before: TemplateRow, after: TemplateRow) -> dict[str, Any]:
    old, new = _told(before), _told(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return {"before": {n: old[n] for n in names if n in old}, "after": {n: new[n] for n in names if n in new}}


def _tell(tx: Tx, caller: Caller, row: TemplateRow, verb: str, details: Mapping[str, Any]) -> None:
    events.emit(
        tx,
        type=f"template.{verb}",
        actor=caller.actor,
        noun="template",
        object_id=row.id,
        object_name=row.name,
        project=row.project,
        message=f"{caller.actor.name} {verb} template {row.name}"
        + (f", now in revision {row.revision}" if verb == "updated" else ""),
        request_id=caller.request_id,
        details=dict(details),
    )

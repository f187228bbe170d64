"""Which template or instance type is meant by a name or an id. For their services, and where machines are made."""

from collections.abc import Sequence

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services import projects
from nacre.control.store import instance_types as type_store
from nacre.control.store import templates as store
from nacre.control.store.db import Read
from nacre.control.store.instance_types import InstanceTypeRow
from nacre.control.store.templates import TemplateRow
from nacre.errors import InvalidInputError, NotFoundError
from nacre.model.ids import ProjectId, looks_like_id
from nacre.model.images import Visibility
from nacre.schema.vms import VmConfig

DEFAULT_PROJECT = "default"
_NAMED = 5


async def find(rd: Read, caller: Caller, ref: str, project: str | None = None) -> TemplateRow:
    """Return the template with this id, or with this name in a project or else among the public ones.

    Marks the caller as checked for viewing; who changes the template asks the policy again, for its project.
    Raises NotFoundError.
    """
    visible = policy.visible_projects(caller)
    if looks_like_id(ref):
        row = await store.get(rd, ref)
        seen = row is not None and (visible is None or row.project in visible or row.visibility is Visibility.PUBLIC)
        if row is None or not seen:
            raise missing(ref)
        return row
    owner = await projects.resolve(rd, project or DEFAULT_PROJECT)
    if visible is not None and owner.id not in visible:
        raise projects.missing(project or DEFAULT_PROJECT)
    return _closest(ref, await store.named(rd, ref, {owner.id}), owner.id)


async def usable(rd: Read, caller: Caller, ref: str, project: ProjectId) -> TemplateRow:
    """Return the template that is meant in `project`, where the caller was found to be allowed to make machines."""
    assert caller.checked
    if looks_like_id(ref):
        row = await store.get(rd, ref)
        if row is None or (row.project != project and row.visibility is not Visibility.PUBLIC):
            raise missing(ref)
        return row
    return _closest(ref, await store.named(rd, ref, {project}), project)


async def config_of(rd: Read, row: TemplateRow, revision: int | None) -> tuple[VmConfig, int]:
    """Return what a template says in a revision (None: the newest), and which that is. Raises NotFoundError."""
    if revision is None or revision == row.revision:
        return row.config, row.revision
    found = await store.revision(rd, row.id, revision)
    if found is None:
        raise NotFoundError(
            "revision_not_found",
            f"template {row.name} has no revision {revision}",
            hint=f"its newest is {row.revision}; list them with `nacre template revisions {row.name}`",
            field="template",
        )
    return found.config, revision


async def find_type(rd: Read, caller: Caller, ref: str, project: str | None = None) -> InstanceTypeRow:
    """Return the instance type with this id, or with this name in a project or else on the platform.

    Marks the caller as checked for viewing, like `find`. Raises NotFoundError.
    """
    visible = policy.visible_projects(caller)
    if looks_like_id(ref):
        row = await type_store.get(rd, ref)
        if row is None or not (visible is None or row.project is None or row.project in visible):
            raise missing_type(ref)
        return row
    owner = await projects.resolve(rd, project or DEFAULT_PROJECT)
    if visible is not None and owner.id not in visible:
        raise projects.missing(project or DEFAULT_PROJECT)
    found = await type_store.named(rd, ref, owner.id)
    if found is None:
        raise missing_type(ref)
    return found


async def usable_type(rd: Read, caller: Caller, ref: str, project: ProjectId) -> InstanceTypeRow:
    """Return the instance type that is meant in `project`, for a caller like that of `usable`."""
    assert caller.checked
    row = await type_store.get(rd, ref) if looks_like_id(ref) else await type_store.named(rd, ref, project)
    if row is None or row.project not in {None, project}:
        raise missing_type(ref)
    return row


def missing(ref: str) -> NotFoundError:
    """Return the error for a template that is not there, or that the caller may not know of."""
    return NotFoundError(
        "template_not_found",
        f"there is no template {ref}",
        hint="list them with `nacre template list`",
        field="template",
    )


def missing_type(ref: str) -> NotFoundError:
    """Return the error for an instance type that is not there, or that the caller may not know of."""
    return NotFoundError(
        "instance_type_not_found",
        f"there is no instance type {ref}",
        hint="list them with `nacre instance-type list`",
        field="instance_type",
    )


def _closest(ref: str, found: Sequence[TemplateRow], project: ProjectId) -> TemplateRow:
    """Return the project's own before a public one of others. Raises NacreError."""
    own = [row for row in found if row.project == project] or list(found)
    if not own:
        raise missing(ref)
    if len(own) > 1:
        raise InvalidInputError(
            "template_ambiguous",
            f"{len(own)} public templates are named {ref}",
            hint=f"give an id: {', '.join(row.id for row in own[:_NAMED])}",
            field="template",
        )
    return own[0]

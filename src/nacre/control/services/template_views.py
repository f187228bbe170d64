"""Templates and instance types as they are shown, without what the caller may not see. Called by their services."""

from collections.abc import Sequence

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.services.preconditions import etag_of
from nacre.control.services.vm_layers import without
from nacre.control.store import images, vms
from nacre.control.store.db import Read
from nacre.control.store.images import ImageRow
from nacre.control.store.instance_types import InstanceTypeView
from nacre.control.store.templates import RevisionRow, TemplateRow, TemplateView
from nacre.model.images import Visibility
from nacre.schema import templates as schema
from nacre.schema.common import ProjectRef
from nacre.schema.instance_types import InstanceTypeOut
from nacre.schema.templates import RevisionOut, TemplateOut
from nacre.schema.vms import ImageRef

CHANGES = "template:update"
"""Who may do this with a template may see all of it."""


async def shown(rd: Read, caller: Caller, rows: Sequence[TemplateView]) -> list[TemplateOut]:
    """Return templates as this caller sees them, in the same order."""
    counts = await vms.made_from(rd, [row.id for row in rows])
    wanted = {row.config.image for row in rows if row.config.image is not None}
    known = {str(image.id): image for image in await images.many(rd, wanted)} if wanted else {}
    return [_template(caller, row, counts.get(row.id, 0), known.get(row.config.image or "")) for row in rows]


async def types_shown(rd: Read, rows: Sequence[InstanceTypeView]) -> list[InstanceTypeOut]:
    """Return instance types as anybody sees them, in the same order."""
    counts = await vms.made_from(rd, [row.id for row in rows])
    return [
        InstanceTypeOut(
            id=row.id,
            name=row.name,
            project=None if row.project is None else ProjectRef(id=row.project, name=row.project_name or ""),
            description=row.description,
            labels=row.labels,
            config=row.config,
            revision=row.revision,
            vms=counts.get(row.id, 0),
            created_by=row.created_by,
            created_at=row.created_at,
            updated_at=row.updated_at,
            etag=etag_of(row.revision),
        )
        for row in rows
    ]


def revision(caller: Caller, template: TemplateRow, row: RevisionRow) -> RevisionOut:
    """Show what a template said at one time."""
    config, hidden = without(row.config, hidden_from(caller, template))
    return RevisionOut(
        revision=row.revision, config=config, hidden=hidden, created_by=row.created_by, created_at=row.created_at
    )


def hidden_from(caller: Caller, template: TemplateRow | None) -> frozenset[str]:
    """Return the fields of a template's configuration that the caller must not be shown."""
    if template is None or policy.allowed(caller, template.project, CHANGES):
        return frozenset()
    return schema.SECRET_FIELDS


def image_ref(caller: Caller, image: ImageRow | None) -> ImageRef | None:
    """Return an image by name, if the caller may know of it."""
    if image is None:
        return None
    public = image.visibility is Visibility.PUBLIC
    return ImageRef(id=image.id, name=image.name) if public or policy.may_view(caller, image.project, "image") else None


def _template(caller: Caller, row: TemplateView, count: int, image: ImageRow | None) -> TemplateOut:
    config, hidden = without(row.config, hidden_from(caller, row))
    return TemplateOut(
        id=row.id,
        name=row.name,
        project=ProjectRef(id=row.project, name=row.project_name),
        description=row.description,
        labels=row.labels,
        visibility=row.visibility,
        config=config,
        hidden=hidden,
        image=image_ref(caller, image),
        revision=row.revision,
        vms=count,
        created_by=row.created_by,
        created_at=row.created_at,
        updated_at=row.updated_at,
        etag=etag_of(row.revision),
    )

"""Rows of images as the API shows them. Called by `images`. One query for the machines of a whole list."""

from collections.abc import Sequence

from nacre.control.services.preconditions import etag_of
from nacre.control.store import vms
from nacre.control.store.db import Read
from nacre.control.store.images import ImageView, Part
from nacre.model.images import Progress, Visibility
from nacre.schema.common import ProjectRef
from nacre.schema.images import ImageOut


async def shown(rd: Read, rows: Sequence[ImageView]) -> list[ImageOut]:
    """Return images as the API shows them, in the same order."""
    counts = await vms.using(rd, [row.id for row in rows])
    return [
        ImageOut(
            id=row.id,
            name=row.name,
            project=ProjectRef(id=row.project, name=row.project_name),
            labels=row.labels,
            state=row.state,
            visibility=row.visibility,
            artifacts=row.artifacts,
            progress=tuple(_progress(part) for part in row.parts),
            kernel_args=row.kernel_args,
            defaults=row.defaults,
            captured=row.captured if row.visibility is Visibility.PRIVATE else None,
            error_code=row.error_code,
            error=row.error,
            hint=row.hint,
            vms=counts.get(row.id, 0),
            created_at=row.created_at,
            updated_at=row.updated_at,
            etag=etag_of(row.version),
        )
        for row in rows
    ]


def _progress(part: Part) -> Progress:
    total = part.size_bytes if part.size_bytes is not None else part.total_bytes
    return Progress(role=part.role, received_bytes=part.received_bytes, total_bytes=total, updated_at=part.progress_at)

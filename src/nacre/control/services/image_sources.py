"""Where an artifact may come from: an upload, a URL, a path. Checked when an image is created, before anything is done.

Called by `images.create`. The address behind a URL is checked again when it is connected to, and a path is opened anew
when it is copied: what is found here is for an early answer, not for safety.
"""

import os

from nacre.control.services.image_files import ImageDepot, recognise, too_large
from nacre.control.store.images import Origin, Part
from nacre.errors import InvalidInputError
from nacre.lib.fetch import check_url
from nacre.model.images import Format, Role
from nacre.schema.images import ArtifactSource

_MAX_LOCATION = 4096


def part_of(source: ArtifactSource, depot: ImageDepot, field: str) -> Part:
    """Return the artifact to be, if it may come from there. Raises NacreError."""
    origin, location = _origin(source, field)
    if source.size_bytes is not None and source.size_bytes > depot.max_bytes:
        raise too_large(source.size_bytes, depot.max_bytes)
    if source.role is not Role.DISK and source.format not in {None, Format.RAW}:
        raise InvalidInputError(
            "artifact_format",
            f"a {source.role} cannot be {source.format}",
            hint="leave the format out",
            field=f"{field}.format",
        )
    if origin is Origin.URL:
        check_url(location, depot.guard)
    if origin is Origin.PATH:
        _look_at(location, source.role, depot, f"{field}.path")
    return Part(
        role=source.role,
        origin=origin,
        location=location,
        sha256=source.sha256,
        size_bytes=source.size_bytes,
        format=source.format,
    )


def _origin(source: ArtifactSource, field: str) -> tuple[Origin, str]:
    if source.url is not None and source.path is not None:
        raise InvalidInputError(
            "artifact_source",
            "an artifact has a url and a path",
            hint="give one of them, or none to upload",
            field=field,
        )
    location = source.url or source.path or ""
    if len(location) > _MAX_LOCATION or (not location and (source.url, source.path) != (None, None)):
        raise InvalidInputError(
            "artifact_source",
            "the url or path is empty or too long",
            hint=f"give 1 to {_MAX_LOCATION} characters, or leave it out to upload",
            field=field,
        )
    if source.url is not None:
        return Origin.URL, location
    return (Origin.PATH if source.path is not None else Origin.UPLOAD), location


def _look_at(path: str, role: Role, depot: ImageDepot, field: str) -> None:
    file = depot.open_registered(path, field=field)
    try:
        recognise(file, role)
    finally:
        os.close(file)

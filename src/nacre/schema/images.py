"""Bodies of /v1/images."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ids import ImageId
from nacre.model.images import Artifact, Format, ImageDefaults, ImageState, Progress, Role, Sha256, Visibility
from nacre.schema.common import Body, Out, ProjectRef


class ArtifactSource(Body, frozen=True, kw_only=True):
    """Where one artifact comes from: uploaded by the client (neither `url` nor `path`), a URL, or a path on the
    control plane's host under an allowed root."""

    role: Role
    url: str | None = None
    path: str | None = None
    sha256: Sha256 | None = None
    """Checked when all bytes are there. Without it the image records what it got."""
    size_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Checked like the checksum; also lets progress be shown."""
    format: Format | None = None
    """What the caller believes it is; a disagreement with the content is an error."""


class ImageCreate(Body, frozen=True, kw_only=True):
    """A new image. It is ready when every artifact has arrived and was verified."""

    name: str
    artifacts: Annotated[tuple[ArtifactSource, ...], msgspec.Meta(min_length=1, max_length=3)]
    project: str = "default"
    labels: dict[str, str] = {}
    visibility: Visibility = Visibility.PRIVATE
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    defaults: ImageDefaults = ImageDefaults()


class ImageUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    labels: dict[str, str] | None = None
    visibility: Visibility | None = None
    defaults: ImageDefaults | None = None


class ImageOut(Out, frozen=True, kw_only=True):
    """An image and how far it is from ready."""

    id: ImageId
    name: str
    project: ProjectRef
    labels: dict[str, str]
    state: ImageState
    visibility: Visibility
    artifacts: tuple[Artifact, ...]
    progress: tuple[Progress, ...]
    kernel_args: str
    defaults: ImageDefaults
    error_code: str
    error: str
    hint: str
    vms: int
    created_at: datetime
    updated_at: datetime
    etag: str


class UploadOut(Out, frozen=True, kw_only=True):
    """How much of an upload has arrived: send the rest from `offset`."""

    role: Role
    offset: int
    size_bytes: int | None
    complete: bool

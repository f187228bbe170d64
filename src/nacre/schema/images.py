"""Bodies of /v1/images."""

from datetime import datetime
from typing import Annotated

import msgspec

from nacre.model.ids import ImageId
from nacre.model.images import Artifact, Capture, Format, ImageDefaults, ImageState, Progress, Role, Sha256, Visibility
from nacre.schema.common import Body, Out, ProjectRef


class ArtifactSource(Body, frozen=True, kw_only=True):
    """Where one artifact comes from: uploaded by the client (neither `url` nor `path`), a URL, or a path on the
    control plane's host under an allowed root."""

    role: Role
    """What it is for."""
    url: str | None = None
    """Where to fetch it from; null to upload it, or with a path."""
    path: str | None = None
    """Where it is on the server, under a folder that it allows."""
    sha256: Sha256 | None = None
    """Checked when all bytes are there. Without it the image records what it got."""
    size_bytes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """Checked like the checksum; also lets progress be shown."""
    format: Format | None = None
    """What the caller believes it is; a disagreement with the content is an error."""


class ImageCreate(Body, frozen=True, kw_only=True):
    """A new image. It is ready when every artifact has arrived and was verified."""

    name: str
    """Unique in its project."""
    artifacts: Annotated[tuple[ArtifactSource, ...], msgspec.Meta(max_length=3)] = ()
    """The files that it is made of; none with a checkpoint."""
    checkpoint: str | None = None
    """Instead of files: a checkpoint of a machine of the project, by id or as machine/checkpoint. The disk is the
    machine's root disk as it was then; kernel, initrd and kernel arguments are those of the machine's image."""
    project: str = "default"
    """Name or id of the project that it belongs to."""
    labels: dict[str, str] = {}
    """Free labels, to select by."""
    visibility: Visibility = Visibility.PRIVATE
    """Which projects may use it."""
    kernel_args: Annotated[str, msgspec.Meta(max_length=2048)] = ""
    """The kernel command line."""
    defaults: ImageDefaults = ImageDefaults()
    """What a machine gets that asks for nothing else. With a checkpoint, what is left out is as the machine's image
    has it."""


class ImageUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays."""

    labels: dict[str, str] | None = None
    """Free labels, to select by."""
    visibility: Visibility | None = None
    """Which projects may use it."""
    defaults: ImageDefaults | None = None
    """What a machine gets that asks for nothing else."""


class ImageOut(Out, frozen=True, kw_only=True):
    """An image and how far it is from ready."""

    id: ImageId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef
    """The project that it belongs to."""
    labels: dict[str, str]
    """Free labels, to select by."""
    state: ImageState
    """Where it is in its life."""
    visibility: Visibility
    """Which projects may use it."""
    artifacts: tuple[Artifact, ...]
    """The files that have been checked."""
    progress: tuple[Progress, ...]
    """How much has arrived of those that have not."""
    kernel_args: str
    """The kernel command line."""
    defaults: ImageDefaults
    """What a machine gets that asks for nothing else."""
    captured: Capture | None
    """The checkpoint that the disk is of, whose machines get an identity of their own; null for an image of files, and
    for a public one, because others need not know of the project's machines."""
    error_code: str
    """Stable name of what went wrong; empty if nothing did."""
    error: str
    """What went wrong, for people."""
    hint: str
    """What to do about it."""
    vms: int
    """How many machines boot from it."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    etag: str
    """Its state, for `If-Match`."""


class UploadOut(Out, frozen=True, kw_only=True):
    """How much of an upload has arrived: send the rest from `offset`."""

    role: Role
    """Which artifact."""
    offset: int
    """How much has arrived; go on from here."""
    size_bytes: int | None
    """How much there will be."""
    complete: bool
    """Whether all of it is there."""

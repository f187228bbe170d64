"""Images: what a machine boots from. A set of artifacts (disk, kernel, initrd, ISO), each with a checksum.

Used by every layer. Pure.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.ids import CheckpointId, ImageId, VmId

MAX_ARTIFACT_BYTES = 1 << 40


class Role(StrEnum):
    """What an artifact is for."""

    DISK = "disk"
    KERNEL = "kernel"
    INITRD = "initrd"
    ISO = "iso"  # a medium to start from, such as an installer


class Format(StrEnum):
    """How an artifact is encoded. Recognised from its content; kernels and initrds are always `raw`."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHD = "vhd"


class ImageState(StrEnum):
    """Where an image is on its way to being usable."""

    UPLOADING = "uploading"  # artifacts are being received from a client
    FETCHING = "fetching"  # artifacts are being fetched from a URL
    READY = "ready"
    FAILED = "failed"
    DELETING = "deleting"


MOVES: dict[ImageState, frozenset[ImageState]] = {
    ImageState.UPLOADING: frozenset({ImageState.READY, ImageState.FAILED, ImageState.DELETING}),
    ImageState.FETCHING: frozenset({ImageState.READY, ImageState.FAILED, ImageState.DELETING}),
    ImageState.READY: frozenset({ImageState.DELETING}),
    ImageState.FAILED: frozenset({ImageState.DELETING}),
    ImageState.DELETING: frozenset(),
}


class Visibility(StrEnum):
    """Who may boot from an image."""

    PRIVATE = "private"  # the project that owns it
    PUBLIC = "public"  # every project; needs the platform's consent


Sha256 = Annotated[
    str,
    msgspec.Meta(
        pattern="^[0-9a-f]{64}$",
        max_length=64,
        description="SHA-256 of the content, in hex",
        extra={"expects": "64 lower-case hex digits"},
    ),
]


class Artifact(msgspec.Struct, frozen=True, kw_only=True):
    """One verified file of an image."""

    role: Role
    """What it is for."""
    format: Format
    """How it is encoded."""
    size_bytes: int
    """Its size, in bytes."""
    sha256: Sha256
    """SHA-256 of its content, in hex."""
    virtual_size_bytes: int
    """What a guest sees; equals `size_bytes` for everything but disks."""


class ImageDefaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a machine gets that asks for nothing else."""

    cpus: Annotated[int, msgspec.Meta(ge=1, le=256)] | None = None
    """CPUs of a machine that asks for none."""
    memory_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] | None = None
    """Memory of a machine that asks for none."""
    disk_bytes: Annotated[int, msgspec.Meta(ge=1 << 20)] | None = None
    """Root disk of a machine that asks for none."""


class Capture(msgspec.Struct, frozen=True, kw_only=True):
    """The checkpoint of a machine that an image's disk is of. Both may be gone by now."""

    vm: VmId
    """The machine."""
    vm_name: str
    """Its name when the image was made."""
    checkpoint: CheckpointId
    """The checkpoint."""
    checkpoint_name: str
    """Its name when the image was made."""


class ImageManifest(msgspec.Struct, frozen=True, kw_only=True):
    """All that a node needs to fetch, verify and boot an image."""

    id: ImageId
    """Its id, which never changes."""
    artifacts: tuple[Artifact, ...]
    """The files that it is made of."""
    kernel_args: str = ""
    """The kernel command line."""

    def artifact(self, role: Role) -> Artifact | None:
        """Return the artifact with this role, if the image has one."""
        return next((a for a in self.artifacts if a.role is role), None)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How much of an artifact has arrived."""

    role: Role
    """Which artifact."""
    received_bytes: int
    """How much has arrived."""
    total_bytes: int | None = None
    """How much there is; null when nobody knows."""
    updated_at: datetime | None = None
    """When something last arrived."""


def check_roles(roles: list[Role]) -> None:
    """Raise InvalidInputError unless a machine can boot from artifacts with these roles."""
    if len(set(roles)) != len(roles):
        raise InvalidInputError(
            "duplicate_artifact", "an artifact is given twice", hint="give each role once", field="artifacts"
        )
    if Role.INITRD in roles and Role.KERNEL not in roles:
        raise InvalidInputError(
            "initrd_without_kernel", "an initrd needs a kernel", hint="give the kernel too", field="artifacts"
        )
    if Role.ISO in roles and Role.KERNEL in roles:
        raise InvalidInputError(
            "kernel_with_iso",
            "an image starts from a kernel or from a medium, not from both",
            hint="leave out the kernel, or the ISO",
            field="artifacts",
        )
    if not {Role.KERNEL, Role.DISK, Role.ISO} & set(roles):
        raise InvalidInputError(
            "nothing_to_boot",
            "an image needs a disk, a kernel or an ISO",
            hint="give at least one of them",
            field="artifacts",
        )

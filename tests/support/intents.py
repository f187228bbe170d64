"""Desired states for tests of the agent."""

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

import msgspec

from nacre.model.ids import ImageId, ProjectId, VmId, make_id
from nacre.model.images import Artifact, Format, ImageManifest, Role
from nacre.model.units import MIB
from nacre.model.vms import Desired, VmIntent, VmSpec
from nacre.protocol.messages import NodeIntent

KERNEL = b"not much of a kernel"
IMAGE = ImageId("img-" + "0" * 26)
MANIFEST = ImageManifest(
    id=IMAGE,
    artifacts=(
        Artifact(
            role=Role.KERNEL,
            format=Format.RAW,
            size_bytes=len(KERNEL),
            sha256=hashlib.sha256(KERNEL).hexdigest(),
            virtual_size_bytes=len(KERNEL),
        ),
    ),
)


def vm_id() -> VmId:
    """A new id."""
    return VmId(make_id("vm", datetime.now(UTC), secrets.token_bytes(10)))


def vm_intent(
    vm: VmId | None = None, desired: Desired = Desired.RUNNING, generation: int = 1, **changes: Any
) -> VmIntent:
    """A machine for the fake hypervisor; `changes` go to the intent, or to its spec."""
    of_spec = {name: changes.pop(name) for name in list(changes) if name in VmSpec.__struct_fields__}
    vm = vm or vm_id()
    basis: dict[str, Any] = {
        "id": vm,
        "project": ProjectId("prj-" + "0" * 26),
        "name": "m" + vm[-6:],
        "generation": generation,
        "desired": desired,
        "spec": VmSpec(**{"image": IMAGE, "hypervisor": "fake", "memory_bytes": 64 * MIB, **of_spec}),
        "image": MANIFEST,
    }
    return VmIntent(**(basis | changes))


def newer(intent: VmIntent, desired: Desired | None = None, **changes: Any) -> VmIntent:
    """The next generation of an intent."""
    changes = {"generation": intent.generation + 1, "desired": desired or intent.desired, **changes}
    return msgspec.structs.replace(intent, **changes)


def node_intent(*vms: VmIntent, teardown_allowed: bool = True) -> NodeIntent:
    """A desired state of these machines."""
    return NodeIntent(vms=vms, images=(IMAGE,), teardown_allowed=teardown_allowed)

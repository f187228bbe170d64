"""What would be made of a template or a request, field by field with who says so; and how templates differ."""

from typing import Any

import msgspec

from nacre.control.auth import policy
from nacre.control.auth.principals import Caller
from nacre.control.auth.sealing import Sealer
from nacre.control.services import (
    image_lookup,
    projects,
    template_lookup,
    template_views,
    vm_layers,
    vm_seeds,
    vm_sources,
    vms,
)
from nacre.control.services.vm_creation import create, spec_of
from nacre.control.services.vm_layers import Merged
from nacre.control.services.vm_sources import Asked
from nacre.control.store import images
from nacre.control.store.db import Read, Tx
from nacre.control.store.images import ImageRow
from nacre.control.store.templates import TemplateRow
from nacre.errors import InvalidInputError
from nacre.model.guests import SeedRef
from nacre.model.ids import ImageId, ProjectId
from nacre.model.images import Visibility
from nacre.model.templates import Layer, split_revision
from nacre.model.vm_checks import check_spec
from nacre.model.vms import VmSpec
from nacre.schema.templates import DiffOut, FieldOut, PreviewOut
from nacre.schema.vms import VmConfig, VmCreate

DEFAULT_PROJECT = "default"
NOTHING = VmConfig()


async def of_request(tx: Tx, caller: Caller, body: VmCreate, *, sealer: Sealer | None = None) -> PreviewOut:
    """Say what a request for machines makes, by making them: `tx` is to be rolled back. Raises what that raises."""
    await create(tx, caller, body, sealer=sealer)
    project = await projects.require(tx, caller, body.project)
    names = vm_layers.names_of(body.name, body.count, body.first_number)
    asked = await vm_sources.asked(tx, caller, body, project.id)
    image = await image_lookup.usable(tx, caller, asked.image, project.id)
    seed = vm_seeds.ref_of(vm_seeds.taken(body.cloud_init), sealer) if body.cloud_init is not None else None
    return _preview(caller, asked, image, tuple(names), seed)


async def of_template(
    rd: Read, caller: Caller, ref: str, *, project: str | None = None, instance_type: str | None = None
) -> PreviewOut:
    """Say what a template would make without anything besides, or with an instance type."""
    name, revision = split_revision(ref)
    row = await template_lookup.find(rd, caller, name, project)
    home = await _home(rd, caller, row, project)
    exact = row.id if revision is None else f"{row.id}@{revision}"
    asked = await vm_sources.layered(rd, caller, NOTHING, home, template=exact, instance_type=instance_type)
    image = None if asked.config.image is None else await image_lookup.usable(rd, caller, asked.config.image, home)
    return _preview(caller, asked, image, ())


async def difference(
    rd: Read, caller: Caller, ref: str, *, other: str | None, vm: str | None, project: str | None = None
) -> DiffOut:
    """Say how what a template gives differs from another, or how a machine differs from what it would be now."""
    if (other is None) == (vm is None):
        raise InvalidInputError(
            "nothing_to_compare",
            "a template is compared with one thing",
            hint="give either another template or a machine",
            field="other",
        )
    left, said, name = await _side(rd, caller, ref, project)
    if vm is not None:
        return await _from_machine(rd, caller, left, said, name, vm, project)
    right, also, other_name = await _side(rd, caller, other or "", project)
    hidden = template_views.hidden_from(caller, left) | template_views.hidden_from(caller, right)
    found = vm_layers.differences(vm_layers.given(said), vm_layers.given(also), hidden)
    return DiffOut(left=f"template {name}", right=f"template {other_name}", differences=found)


async def _from_machine(
    rd: Read, caller: Caller, row: TemplateRow, config: VmConfig, name: str, vm: str, project: str | None
) -> DiffOut:
    machine = await vms.resolve(rd, caller, vm, project)
    policy.require(caller, machine.project, action="vm:view")
    whole = Merged(config=config, layers={})
    if config.image is not None:
        image = await images.get(rd, config.image)
        whole = whole if image is None else vm_layers.with_image(whole, image.defaults)
    left = {**_fields(VmSpec(image=machine.image)), **vm_layers.given(whole.config)}
    if config.image is None:
        left["image"] = None
    left.pop("start", None)  # that was asked once; what the machine should be doing has changed since
    right = {**_fields(machine.spec), "labels": machine.labels}
    for side in (left, right):
        side.pop(vm_seeds.FIELD, None)  # which no template gives
    found = vm_layers.differences(left, right, template_views.hidden_from(caller, row))
    return DiffOut(left=f"template {name}", right=f"machine {machine.name}", differences=found)


async def _side(rd: Read, caller: Caller, ref: str, project: str | None) -> tuple[TemplateRow, VmConfig, str]:
    """Return a template, what it says in the revision that is named, and how to call that."""
    name, wanted = split_revision(ref)
    row = await template_lookup.find(rd, caller, name, project)
    config, revision = await template_lookup.config_of(rd, row, wanted)
    return row, config, f"{row.name} revision {revision}"


async def _home(rd: Read, caller: Caller, row: TemplateRow, project: str | None) -> ProjectId:
    """Return the project in which a machine would be made: the one that is asked about, or the template's own."""
    if row.visibility is not Visibility.PUBLIC:
        return row.project
    return (await projects.require(rd, caller, project or DEFAULT_PROJECT)).id


def _preview(
    caller: Caller, asked: Asked, image: ImageRow | None, names: tuple[str, ...], seed: SeedRef | None = None
) -> PreviewOut:
    hidden = template_views.hidden_from(caller, asked.template)
    merged = asked.merged if image is None else vm_layers.with_image(asked.merged, image.defaults)
    spec = None if image is None else check_spec(spec_of(asked.config, image))
    if spec is not None and seed is not None:
        spec = msgspec.structs.replace(spec, cloud_init=seed)
        merged = Merged(config=merged.config, layers={**merged.layers, vm_seeds.FIELD: Layer.REQUEST})
    shown = _shown_fields(merged, spec, hidden)
    return PreviewOut(
        names=names,
        spec=None if any(field.hidden for field in shown) else spec,
        fields=shown,
        template=asked.origins.template,
        instance_type=asked.origins.instance_type,
        image=template_views.image_ref(caller, image),
        missing=() if image is not None else ("image",),
    )


def _shown_fields(merged: Merged, spec: VmSpec | None, hidden: frozenset[str]) -> tuple[FieldOut, ...]:
    """Return every field of a machine, and who says so. Pure."""
    values = vm_layers.given(merged.config)
    whole: dict[str, Any] = _fields(spec) if spec is not None else _fields(VmSpec(image=ImageId("")))
    if spec is None:
        whole = {**whole, "image": None, **values}
    whole["start"] = values.get("start", True)
    shown: list[FieldOut] = []
    for name, value in whole.items():
        if name == "labels":
            continue
        layer = merged.layers.get(name, Layer.DEFAULT)
        secret = name in hidden and layer is Layer.TEMPLATE
        told = None if secret else msgspec.to_builtins(value)
        shown.append(FieldOut(path=name, value=told, layer=layer, hidden=secret))
    for key, value in sorted(merged.config.labels.items()):
        path = f"labels.{key}"
        shown.append(FieldOut(path=path, value=value, layer=merged.layers.get(path, Layer.DEFAULT)))
    return tuple(shown)


def _fields(spec: VmSpec) -> dict[str, Any]:
    return msgspec.structs.asdict(spec)

"""What is asked for of a machine, with what its instance type and its template say. Called where machines are made."""

from dataclasses import dataclass, replace

from nacre.control.auth.principals import Caller
from nacre.control.services import checkpoint_clones, template_lookup, vm_layers
from nacre.control.services.checkpoint_clones import Source
from nacre.control.services.vm_layers import Merged
from nacre.control.store.db import Read
from nacre.control.store.templates import TemplateRow
from nacre.errors import InvalidInputError
from nacre.model.ids import ProjectId
from nacre.model.templates import Layer, Origin, Origins, split_revision
from nacre.schema.vms import VmConfig, VmCreate


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A configuration before any image was looked at, and where it comes from."""

    merged: Merged
    origins: Origins
    template: TemplateRow | None = None
    source: Source | None = None

    @property
    def config(self) -> VmConfig:
        """What is asked for."""
        return self.merged.config

    @property
    def image(self) -> str:
        """Name or id of the image. Raises InvalidInputError if nobody gives one."""
        if self.config.image is None:
            raise InvalidInputError(
                "missing_field",
                "image is missing" if self.template is None else f"template {self.template.name} names no image",
                hint="give an image" if self.template is not None else "give an image, or a template that has one",
                field="image",
            )
        return self.config.image


async def asked(rd: Read, caller: Caller, body: VmCreate, project: ProjectId) -> Asked:
    """Return what a request for machines of `project` asks for. The caller was found to be allowed to make them."""
    if body.checkpoint is None:
        return await layered(rd, caller, body, project, template=body.template, instance_type=body.instance_type)
    given = next((name for name in ("image", "template") if getattr(body, name) is not None), None)
    if given is not None:
        raise InvalidInputError(
            "checkpoint_and_more",
            f"a machine is made from a checkpoint or from {given}, not from both",
            hint=f"leave {given} out",
            field=given,
        )
    source = await checkpoint_clones.resolve(rd, body.checkpoint, project)
    found = await layered(
        rd, caller, body, project, template=None, instance_type=body.instance_type, below=source.config
    )
    checkpoint_clones.check_size(source, found.config.disk_bytes)
    return replace(found, source=source)


async def layered(
    rd: Read,
    caller: Caller,
    config: VmConfig,
    project: ProjectId,
    *,
    template: str | None,
    instance_type: str | None,
    below: VmConfig | None = None,
) -> Asked:
    """Return a configuration over an instance type over a template or `below`, that of a checkpoint. Raises."""
    layers = [(Layer.REQUEST, config)]
    size = found = None
    revision = 0
    if instance_type is not None:
        size = await template_lookup.usable_type(rd, caller, instance_type, project)
        layers.append((Layer.INSTANCE_TYPE, size.config))
    if template is not None:
        name, wanted = split_revision(template)
        found = await template_lookup.usable(rd, caller, name, project)
        said, revision = await template_lookup.config_of(rd, found, wanted)
        layers.append((Layer.TEMPLATE, said))
    if below is not None:
        layers.append((Layer.CHECKPOINT, below))
    return Asked(
        merged=vm_layers.merge(layers),
        origins=Origins(
            template=None if found is None else Origin(id=found.id, name=found.name, revision=revision),
            instance_type=None if size is None else Origin(id=size.id, name=size.name, revision=size.revision),
        ),
        template=found,
    )

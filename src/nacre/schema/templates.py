"""Bodies of /v1/templates and /v1/preview."""

from datetime import datetime
from typing import Any

from nacre.model.ids import TemplateId
from nacre.model.images import Visibility
from nacre.model.templates import Layer, Origin
from nacre.model.vms import VmSpec
from nacre.schema.common import Body, Out, ProjectRef
from nacre.schema.instance_types import Description
from nacre.schema.vms import ImageRef, VmConfig

SECRET_FIELDS: frozenset[str] = frozenset()
"""Fields of a configuration that only those may see who may also change the template, such as what has passwords in
it. Everybody else sees that they are given and not what they say; they never get into events or instance types."""


class TemplateCreate(Body, frozen=True, kw_only=True):
    """A new template: from a part of a configuration, or from that of a machine that exists."""

    name: str
    """Lower-case letters, digits and dashes."""
    project: str = "default"
    """Name or id of the project that it belongs to."""
    from_vm: str | None = None
    """Name or id of a machine of the same project whose configuration is taken over. Not what is on its disks, and
    not what only one machine can have, such as MAC addresses."""
    config: VmConfig = VmConfig()
    """What machines from it get. With `from_vm`, what is to differ from that machine."""
    description: Description = ""
    """What people should know of it."""
    labels: dict[str, str] = {}
    """Labels of the template itself. Those of machines are in `config`."""
    visibility: Visibility = Visibility.PRIVATE
    """Public templates can be used in every project, and need a public image."""


class TemplateUpdate(Body, frozen=True, kw_only=True):
    """Fields to change; the rest stays. Every change is a new revision; machines that exist stay as they are."""

    config: VmConfig | None = None
    """What of its configuration to change: what is null stays. A map, such as labels, is replaced as a whole."""
    clear: tuple[str, ...] = ()
    """Names of fields of its configuration that it should not give any more."""
    description: Description | None = None
    """What people should know of it."""
    labels: dict[str, str] | None = None
    """Free labels, all of them."""
    visibility: Visibility | None = None
    """Who may use it."""


class TemplateOut(Out, frozen=True, kw_only=True):
    """A template in its newest revision."""

    id: TemplateId
    """Its id, which never changes."""
    name: str
    """Its name."""
    project: ProjectRef
    """The project that it belongs to."""
    description: str
    """What people should know of it."""
    labels: dict[str, str]
    """Free labels, to select by."""
    visibility: Visibility
    """Who may use it."""
    config: VmConfig
    """The configuration that it gives."""
    hidden: tuple[str, ...]
    """Fields of `config` that it gives and that the caller may not see."""
    image: ImageRef | None
    """The image that `config` names; null without one, or if the caller may not see it or it is gone."""
    revision: int
    """Raised by every change. Machines remember which one they were made from."""
    vms: int
    """How many machines were made from it, of any revision, and are still there."""
    created_by: str
    """Who made it."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it was last changed."""
    etag: str
    """Names this state of it; give it in If-Match to change nothing newer."""


class RevisionOut(Out, frozen=True, kw_only=True):
    """A template as it was, or is."""

    revision: int
    """The number of this state, counted from 1."""
    config: VmConfig
    """The configuration that it gives."""
    hidden: tuple[str, ...]
    """Fields of `config` that it gave and that the caller may not see."""
    created_by: str
    """Who made the change."""
    created_at: datetime
    """When it was made."""


class FieldOut(Out, frozen=True, kw_only=True):
    """One field of a machine that would be made, and who says so."""

    path: str
    """The field of the machine's `spec`, or `start`, or `labels.` and a key."""
    value: Any
    """Null if it is hidden, or if nobody gives it."""
    layer: Layer
    """Who gave the value."""
    hidden: bool = False
    """It is given, and the caller may not see what."""


class PreviewOut(Out, frozen=True, kw_only=True):
    """What would be created. Nothing was changed."""

    names: tuple[str, ...]
    """Of the machines; none if only a template was asked about."""
    spec: VmSpec | None
    """What each of them would be; null while no image is given, or if part of it is hidden."""
    fields: tuple[FieldOut, ...]
    """Every value with who gave it."""
    template: Origin | None
    """The template that took part."""
    instance_type: Origin | None
    """The instance type that took part."""
    image: ImageRef | None
    """The image; null if none is named."""
    missing: tuple[str, ...] = ()
    """What must still be given to make a machine of it."""


class Difference(Out, frozen=True, kw_only=True):
    """A field that is not the same on both sides."""

    path: str
    """The path of the field, such as `placement.zones[0]`."""
    left: Any
    """What the one side says; null if nothing."""
    right: Any
    """What the other side says; null if nothing."""
    hidden: bool = False
    """They differ, and the caller may not see in what."""


class DiffOut(Out, frozen=True, kw_only=True):
    """How a template differs from another, from another revision of itself, or from a machine."""

    left: str
    """What is compared."""
    right: str
    """What it is compared with."""
    differences: tuple[Difference, ...]
    """Where they differ, by the path of the field."""

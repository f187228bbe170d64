"""Templates and instance types made through their services, as an administrator. For tests."""

from nacre.control.auth.principals import Principal
from nacre.control.services import instance_types, templates
from nacre.control.store.db import Database
from nacre.schema.instance_types import InstanceTypeCreate, InstanceTypeOut
from nacre.schema.templates import TemplateCreate, TemplateOut
from nacre.schema.vms import VmConfig
from support.access import ADMIN
from support.cloud import by


async def make_template(
    db: Database, name: str = "shop", *, principal: Principal = ADMIN, **fields: object
) -> TemplateOut:
    """Make a template; `config` is what it gives."""
    async with db.write() as tx:
        body = TemplateCreate(name=name, **fields)  # pyright: ignore[reportArgumentType]
        return await templates.create(tx, by("template:create", principal), body)


async def make_type(
    db: Database,
    name: str = "small",
    *,
    principal: Principal = ADMIN,
    project: str | None = "default",
    **config: object,
) -> InstanceTypeOut:
    """Make an instance type that gives `config`."""
    async with db.write() as tx:
        body = InstanceTypeCreate(name=name, project=project, config=VmConfig(**config))  # pyright: ignore[reportArgumentType]
        return await instance_types.create(tx, by("instance-type:create", principal), body)

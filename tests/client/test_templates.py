"""Templates and instance types through the client, against the real API."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.client.api import Nacre
from nacre.control.store.db import Database
from nacre.errors import NotFoundError, PreconditionError
from nacre.schema.instance_types import InstanceTypeCreate, InstanceTypeUpdate
from nacre.schema.templates import TemplateCreate, TemplateUpdate
from nacre.schema.vms import VmConfig, VmCreate
from support.api import api_over, on_a_socket, tiny_image

pytestmark = pytest.mark.anyio


@pytest.fixture
async def real(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Nacre]:
    api = await api_over(sqlite_database, tmp_path / "data")
    await tiny_image(api)
    async with on_a_socket(api) as url, Nacre(url, api.token) as client:
        yield client


async def test_templates(real: Nacre) -> None:
    made = await real.templates.create(TemplateCreate(name="shop", config=VmConfig(image="tiny", cpus=2)))
    changed = await real.templates.update("shop", TemplateUpdate(config=VmConfig(cpus=3)), if_match=made.etag)
    assert changed.revision == 2
    with pytest.raises(PreconditionError):
        await real.templates.update("shop", TemplateUpdate(description="x"), if_match=made.etag)
    assert [one.revision for one in await real.templates.revisions("shop")] == [2, 1]
    assert (await real.templates.preview("shop@1")).spec == (await real.templates.preview(f"{made.id}@1")).spec
    (one,) = (await real.templates.diff("shop@1", other="shop")).differences
    assert (one.path, one.left, one.right) == ("cpus", 2, 3)
    await real.vms.create(VmCreate(name="web", template="shop", start=False))
    assert (await real.templates.diff("shop", vm="web")).differences == ()
    assert [one.name for one in await real.templates.all()] == ["shop"]
    await real.templates.delete("shop")
    with pytest.raises(NotFoundError):
        await real.templates.show("shop")


async def test_revisions_are_read_over_pages(real: Nacre) -> None:
    await real.templates.create(TemplateCreate(name="shop", config=VmConfig(priority=0)))
    for number in range(1, 120):
        await real.templates.update("shop", TemplateUpdate(config=VmConfig(priority=number)))
    assert [one.config.priority for one in await real.templates.revisions("shop")] == list(range(119, -1, -1))


async def test_instance_types(real: Nacre) -> None:
    made = await real.instance_types.create(InstanceTypeCreate(name="small", config=VmConfig(cpus=2)))
    body = InstanceTypeUpdate(config=VmConfig(cpus=4))
    assert (await real.instance_types.update("small", body, if_match=made.etag)).revision == 2
    preview = await real.vms.preview(VmCreate(name="web", image="tiny", instance_type="small"))
    assert preview.spec is not None
    assert preview.spec.cpus == 4
    await real.instance_types.delete("small")
    assert await real.instance_types.all() == []


async def test_many_machines(real: Nacre) -> None:
    batch = await real.vms.create(VmCreate(name="web-{n}", image="tiny", count=2, start=False))
    assert [batch.resource.name, *(one.resource.name for one in batch.more)] == ["web-1", "web-2"]

"""Machines made from templates and instance types, alone and many at once; and what previews and differences say."""

import asyncio

import pytest

from nacre.control.auth.principals import Caller
from nacre.control.request import RequestContext
from nacre.control.services import events, plans, previews, templates, vms
from nacre.control.services.listing import query
from nacre.control.store.db import Database, Tx
from nacre.control.wake import VMS
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NacreError, NotFoundError
from nacre.model.access import Role
from nacre.model.ids import ProjectId
from nacre.model.images import ImageDefaults, Visibility
from nacre.model.templates import Layer
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired, PublishedPort, RestartPolicy
from nacre.schema import templates as schema
from nacre.schema.scheduling import PlanBody, PlanItem
from nacre.schema.templates import PreviewOut, TemplateUpdate
from nacre.schema.vms import MAX_COUNT, VmConfig, VmCreate
from support.access import user
from support.cloud import by, cloud, make_image, make_project
from support.ledger import events_of
from support.templates import make_template, make_type

pytestmark = pytest.mark.anyio

PORT = PublishedPort(guest_port=80, host_port=8080)


async def _preview(db: Database, **fields: object) -> PreviewOut:
    async def work(tx: Tx, caller: Caller) -> PreviewOut:
        return await previews.of_request(tx, caller, VmCreate(**fields))  # pyright: ignore

    return await RequestContext(db, by("vm:plan"), once=None, stopping=asyncio.Event()).rehearse(work)


async def test_explicit_before_instance_type_before_template_before_image_before_default(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "large", defaults=ImageDefaults(cpus=16, disk_bytes=3 * GIB))
    config = VmConfig(
        image="large", cpus=8, memory_bytes=2 * GIB, restart=RestartPolicy.ALWAYS, labels={"app": "shop"}, start=False
    )
    await make_template(database, config=config)
    await make_type(database, memory_bytes=GIB, cpus=4)
    asked = {"template": "shop", "instance_type": "small", "cpus": 2, "labels": {"tier": "front"}}
    vm = (await platform.create("web", image=None, **asked)).resource
    assert (vm.spec.cpus, vm.spec.memory_bytes, vm.spec.disk_bytes) == (2, GIB, 3 * GIB)
    assert (vm.spec.restart, vm.image.name, vm.desired) == (RestartPolicy.ALWAYS, "large", Desired.STOPPED)
    assert vm.labels == {"app": "shop", "tier": "front"}
    assert vm.template is not None
    assert vm.instance_type is not None
    assert (str(vm.template), str(vm.instance_type)) == ("shop revision 1", "small revision 1")

    seen = await _preview(database, name="next", **asked)
    assert seen.spec == vm.spec
    assert (seen.names, seen.missing, seen.image) == (("next",), (), vm.image)
    layers = {field.path: field.layer for field in seen.fields}
    assert {name: layers[name] for name in ("cpus", "memory_bytes", "restart", "disk_bytes", "machine")} == {
        "cpus": Layer.REQUEST,
        "memory_bytes": Layer.INSTANCE_TYPE,
        "restart": Layer.TEMPLATE,
        "disk_bytes": Layer.IMAGE,
        "machine": Layer.DEFAULT,
    }
    assert (layers["labels.app"], layers["labels.tier"]) == (Layer.TEMPLATE, Layer.REQUEST)
    assert (layers["image"], layers["start"]) == (Layer.TEMPLATE, Layer.TEMPLATE)


async def test_the_event_of_a_machine_says_what_it_was_made_from(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(image="tiny"))
    vm = (await platform.create("web", image=None, template="shop")).resource
    (told,) = await events_of(database, vm.id)
    assert told.message == "machine web was created from image tiny, template shop revision 1"
    assert told.details["after"]["template"]["revision"] == 1


async def test_a_machine_is_made_from_the_revision_that_is_named(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(image="tiny", cpus=1))
    async with database.write() as tx:
        await templates.update(tx, by("template:update"), "shop", TemplateUpdate(config=VmConfig(cpus=2)))
    old = (await platform.create("old", image=None, template="shop@1")).resource
    new = (await platform.create("new", image=None, template="shop")).resource
    assert [(vm.spec.cpus, vm.template and vm.template.revision) for vm in (old, new)] == [(1, 1), (2, 2)]
    with pytest.raises(NotFoundError) as refused:
        await platform.create("never", image=None, template="shop@3")
    assert refused.value.code == "revision_not_found"


async def test_a_template_that_is_gone_is_remembered(database: Database) -> None:
    platform = await cloud(database)
    made = await make_template(database, config=VmConfig(image="tiny"))
    vm = (await platform.create("web", image=None, template=made.id)).resource
    async with database.write() as tx:
        await templates.delete(tx, by("template:delete"), "shop")
    assert (await platform.vm("web")).template == vm.template
    async with database.read() as rd:
        by_id = await vms.list_(rd, by("vm:list"), query(filters={"template": made.id}))
    assert [one.name for one in by_id.items] == ["web"]
    with pytest.raises(NotFoundError):
        await platform.create("late", image=None, template="shop")


async def test_machines_are_found_by_what_they_were_made_from(database: Database) -> None:
    platform = await cloud(database)
    made = await make_template(database, config=VmConfig(image="tiny"))
    size = await make_type(database, cpus=2)
    await platform.create("plain")
    await platform.create("web", image=None, template="shop", instance_type="small")
    async with database.read() as rd:
        for name, value in (
            ("template", "shop"), ("template", made.id), ("instance_type", "small"), ("instance_type", size.id)
        ):  # fmt: skip
            found = await vms.list_(rd, by("vm:list"), query(filters={name: value}))
            assert [one.name for one in found.items] == ["web"], (name, value)
        assert (await templates.show(rd, by("template:view"), "shop")).vms == 1


async def test_a_machine_needs_an_image_from_somebody(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(cpus=1))
    for template in (None, "shop"):
        with pytest.raises(InvalidInputError) as refused:
            await platform.create("web", image=None, template=template)
        assert (refused.value.code, refused.value.field) == ("missing_field", "image")
    async with database.read() as rd:
        seen = await previews.of_template(rd, by("template:view"), "shop")
    assert (seen.spec, seen.missing, seen.names) == (None, ("image",), ())
    assert {field.path: field.value for field in seen.fields}["cpus"] == 1


async def test_many_machines_are_made_at_once_each_with_its_operation(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(image="tiny"))
    async with database.write() as tx:
        body = VmCreate(name="web-{n}", template="shop", count=3, first_number=7)
        batch = await vms.create(tx, by("vm:create"), body)
    made = [batch, *batch.more]
    assert [one.resource.name for one in made] == ["web-7", "web-8", "web-9"]
    assert len({one.operation.id for one in made}) == 3
    assert [one.operation.object_id for one in made] == [one.resource.id for one in made]
    await platform.converge()
    assert {(await platform.vm(f"web-{number}")).phase.value for number in (7, 8, 9)} == {"running"}


async def test_many_machines_are_all_made_or_none(database: Database) -> None:
    platform = await cloud(database)
    await platform.create("web-2")
    with pytest.raises(ConflictError) as refused:
        await platform.create("web-{n}", count=3)
    assert refused.value.code == "vm_name_taken"
    assert "web-2" in refused.value.message
    async with database.read() as rd:
        assert [one.name for one in (await vms.list_(rd, by("vm:list"), query())).items] == ["web-2"]


async def test_many_machines_cannot_have_one_port_on_one_node(database: Database) -> None:
    platform = await cloud(database)
    with pytest.raises(ConflictError) as refused:
        await platform.create("web", count=2, publish=(PublishedPort(guest_port=80, host_port=8080),))
    assert refused.value.code == "port_in_use"
    with pytest.raises(NotFoundError):
        await platform.vm("web-1")


async def test_as_many_as_are_allowed_are_made(database: Database) -> None:
    platform = await cloud(database)
    made = await platform.create("web", count=MAX_COUNT, start=False)
    assert made.resource.name == "web-1"
    assert (await platform.vm(f"web-{MAX_COUNT}")).desired is Desired.STOPPED


async def test_a_template_of_others_is_used_only_if_it_is_public(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_project(tx, "blue")
        await make_image(tx, platform.project, "open", visibility=Visibility.PUBLIC)
    inner = await make_template(database, "inner", config=VmConfig(image="tiny"))
    await make_template(database, "outer", config=VmConfig(image="open"), visibility=Visibility.PUBLIC)
    size = await make_type(database, cpus=1)
    bo = await user(database, "bo", (Role.EDITOR, "blue"))

    async def create(name: str, **fields: object) -> ProjectId:
        made = await platform.create(name, principal=bo, project="blue", **fields)
        return made.resource.project.id

    assert await create("web", image=None, template="outer") != platform.project
    for template in ("inner", inner.id):
        with pytest.raises(NotFoundError) as refused:
            await create("late", image=None, template=template)
        assert refused.value.code == "template_not_found"
    with pytest.raises(NotFoundError):
        await create("late", image="open", instance_type=size.id)


async def test_two_public_templates_of_one_name_must_be_told_apart(database: Database) -> None:
    async with database.write() as tx:
        for name in ("blue", "red", "green"):
            await make_project(tx, name)
    for project in ("blue", "red"):
        await make_template(database, project=project, visibility=Visibility.PUBLIC)
    async with database.read() as rd:
        with pytest.raises(InvalidInputError) as refused:
            await templates.show(rd, by("template:view"), "shop", project="green")
    assert refused.value.code == "template_ambiguous"


async def test_a_plan_understands_templates_and_patterns(database: Database) -> None:
    await cloud(database)
    await make_template(database, config=VmConfig(image="tiny", cpus=2))
    items = (PlanItem(name="web-{n}", template="shop", count=2), PlanItem(name="db", image="tiny", count=2))
    async with database.read() as rd:
        planned = await plans.plan(rd, by("vm:plan"), PlanBody(machines=items), random=lambda: 0.0)
    assert [(one.name, one.cpus) for one in planned.machines] == [("web-1", 2), ("web-2", 2), ("db-1", 1), ("db-2", 1)]


async def test_a_preview_refuses_what_creating_would(database: Database) -> None:
    platform = await cloud(database)
    async with database.write() as tx:
        await make_image(tx, platform.project, "debian", disk_bytes=2 * GIB)
    await platform.create("taken", publish=[PORT])
    for fields in (
        {"image": "debian", "disk_bytes": GIB},
        {"image": "debian", "kernel_args": "quiet"},
        {"image": "no"},
        {"image": "tiny", "name": "taken"},
        {"image": "tiny", "publish": [PORT]},
        {"image": "tiny", "hypervisor": "quemu"},
        {"image": "tiny", "hypervisor": ""},
    ):
        asked = {"name": "web"} | fields
        with pytest.raises(NacreError) as previewed:
            await _preview(database, **asked)
        with pytest.raises(NacreError) as created:
            await platform.create(**asked)
        assert previewed.value.code == created.value.code
    viewer = await user(database, "vi", (Role.VIEWER, "default"))
    async with database.write() as tx:
        with pytest.raises(ForbiddenError):
            await previews.of_request(tx, by("vm:plan", viewer), VmCreate(name="web", image="tiny"))


async def test_nothing_remains_of_a_preview(database: Database) -> None:
    await cloud(database)
    with database.wakes.listen(VMS) as bell:
        for _ in range(2):
            seen = await _preview(database, name="web", image="tiny", publish=[PORT])
            assert seen.names == ("web",)
        assert not await bell.wait(0)
    async with database.read() as rd:
        assert (await vms.list_(rd, by("vm:list"), query())).items == []
        assert await events.list_events(rd, by("event:list"), noun="vm") == []


async def test_a_preview_of_many_names_them(database: Database) -> None:
    await cloud(database)
    seen = await _preview(database, name="web-{n}", image="tiny", count=3)
    assert seen.names == ("web-1", "web-2", "web-3")


async def test_a_template_is_previewed_with_a_type_and_by_revision(database: Database) -> None:
    await cloud(database)
    await make_template(database, config=VmConfig(image="tiny", cpus=1, memory_bytes=128 * MIB))
    await make_type(database, cpus=4)
    async with database.write() as tx:
        await templates.update(tx, by("template:update"), "shop", TemplateUpdate(config=VmConfig(memory_bytes=GIB)))
    async with database.read() as rd:
        seen = await previews.of_template(rd, by("template:view"), "shop@1", instance_type="small")
    assert seen.spec is not None
    assert (seen.spec.cpus, seen.spec.memory_bytes) == (4, 128 * MIB)
    assert (seen.template and seen.template.revision, seen.instance_type and seen.instance_type.name) == (1, "small")


async def test_templates_are_compared_by_field(database: Database) -> None:
    await cloud(database)
    await make_template(database, "a", config=VmConfig(cpus=1, labels={"tier": "x"}))
    await make_template(database, "b", config=VmConfig(cpus=2, labels={"tier": "x"}, memory_bytes=GIB))
    async with database.write() as tx:
        await templates.update(tx, by("template:update"), "a", TemplateUpdate(config=VmConfig(cpus=4)))
    async with database.read() as rd:
        found = await previews.difference(rd, by("template:view"), "a", other="b", vm=None)
        own = await previews.difference(rd, by("template:view"), "a@1", other="a", vm=None)
        for wrong in ({"other": None, "vm": None}, {"other": "b", "vm": "c"}):
            with pytest.raises(InvalidInputError) as refused:
                await previews.difference(rd, by("template:view"), "a", **wrong)
            assert refused.value.code == "nothing_to_compare"
    assert (found.left, found.right) == ("template a revision 2", "template b revision 1")
    assert [(one.path, one.left, one.right) for one in found.differences] == [
        ("cpus", 4, 2), ("memory_bytes", None, GIB)
    ]  # fmt: skip
    assert [(one.path, one.left, one.right) for one in own.differences] == [("cpus", 1, 4)]


async def test_a_machine_is_compared_with_what_its_template_would_make_now(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(image="tiny", cpus=1, labels={"app": "shop"}))
    await platform.create("web", image=None, template="shop", labels={"tier": "front"})
    async with database.read() as rd:
        same = await previews.difference(rd, by("template:view"), "shop", other=None, vm="web")
    assert [(one.path, one.left, one.right) for one in same.differences] == [("labels.tier", None, "front")]
    async with database.write() as tx:
        await templates.update(tx, by("template:update"), "shop", TemplateUpdate(config=VmConfig(cpus=2)))
    async with database.read() as rd:
        later = await previews.difference(rd, by("template:view"), "shop", other=None, vm="web")
    assert (later.left, later.right) == ("template shop revision 2", "machine web")
    assert ("cpus", 2, 1) in [(one.path, one.left, one.right) for one in later.differences]


async def test_a_secret_of_a_template_is_in_no_preview_and_no_difference(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SECRET_FIELDS", frozenset({"kernel_args"}))
    await cloud(database)
    await make_template(database, config=VmConfig(image="tiny", kernel_args="password=x"))
    await make_template(database, "other", config=VmConfig(image="tiny", kernel_args="password=y"))
    viewer = await user(database, "vi", (Role.VIEWER, "default"))
    async with database.read() as rd:
        seen = await previews.of_template(rd, by("template:view", viewer), "shop")
        found = await previews.difference(rd, by("template:view", viewer), "shop", other="other", vm=None)
        whole = await previews.of_template(rd, by("template:view"), "shop")
    assert "password" not in repr((seen, found))
    (field,) = [one for one in seen.fields if one.path == "kernel_args"]
    assert (field.hidden, field.value, field.layer) == (True, None, Layer.TEMPLATE)
    assert seen.spec is None
    assert [(one.path, one.hidden) for one in found.differences] == [("kernel_args", True)]
    assert whole.spec is not None
    assert whole.spec.kernel_args == "password=x"

"""Templates: their revisions, who may see and change them, and what they may hold."""

import asyncio

import pytest

from nacre.control.auth.principals import PLATFORM
from nacre.control.services import projects, templates
from nacre.control.services.listing import query
from nacre.control.store.db import Database
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, PreconditionError
from nacre.model.access import Role
from nacre.model.images import Visibility
from nacre.model.units import GIB
from nacre.model.vms import NicSpec
from nacre.schema import templates as schema
from nacre.schema.templates import TemplateCreate, TemplateOut, TemplateUpdate
from nacre.schema.vms import VmConfig
from support.access import user
from support.cloud import by, cloud, make_image, make_project
from support.ledger import events_of
from support.templates import make_template

pytestmark = pytest.mark.anyio


async def _update(db: Database, ref: str, **changes: object) -> TemplateOut:
    async with db.write() as tx:
        return await templates.update(tx, by("template:update"), ref, TemplateUpdate(**changes))  # pyright: ignore


async def test_a_template_names_its_image_by_id(database: Database) -> None:
    platform = await cloud(database)
    made = await make_template(database, config=VmConfig(image="tiny", cpus=2), description="d", labels={"a": "b"})
    assert (made.config.image, made.config.cpus, made.revision) == (platform.image, 2, 1)
    assert made.image is not None
    assert made.image.name == "tiny"
    async with database.read() as rd:
        assert await templates.show(rd, by("template:view"), "shop") == made
        assert await templates.show(rd, by("template:view"), made.id) == made


async def test_every_change_is_a_revision_and_none_is_none(database: Database) -> None:
    await cloud(database)
    made = await make_template(database, config=VmConfig(cpus=2, labels={"tier": "x"}))
    assert (await _update(database, "shop", config=VmConfig(cpus=2))).revision == 1
    changed = await _update(database, "shop", config=VmConfig(memory_bytes=GIB), clear=("labels",))
    assert (changed.revision, changed.config) == (2, VmConfig(cpus=2, memory_bytes=GIB))
    described = await _update(database, "shop", description="new")
    assert (described.revision, described.etag == changed.etag) == (3, False)
    async with database.read() as rd:
        first = await templates.revisions(rd, by("template:view"), "shop", query(limit=2))
        rest = await templates.revisions(rd, by("template:view"), "shop", query(limit=2, cursor=first.next))
    assert [one.revision for one in (*first.items, *rest.items)] == [3, 2, 1]
    assert rest.items[0].config == made.config
    assert rest.next is None


async def test_a_change_of_what_is_no_longer_there_is_refused(database: Database) -> None:
    made = await make_template(database, config=VmConfig(cpus=2))
    await _update(database, "shop", config=VmConfig(cpus=3))
    async with database.write() as tx:
        body = TemplateUpdate(config=VmConfig(cpus=4))
        with pytest.raises(PreconditionError):
            await templates.update(tx, by("template:update"), "shop", body, if_match=made.etag)
        with pytest.raises(PreconditionError):
            await templates.delete(tx, by("template:delete"), "shop", if_match=made.etag)


async def test_two_changes_at_once_are_two_revisions(database: Database) -> None:
    await make_template(database, config=VmConfig(cpus=1))
    done = await asyncio.gather(
        _update(database, "shop", config=VmConfig(cpus=2)), _update(database, "shop", config=VmConfig(memory_bytes=GIB))
    )
    assert sorted(one.revision for one in done) == [2, 3]
    async with database.read() as rd:
        assert (await templates.show(rd, by("template:view"), "shop")).config == VmConfig(cpus=2, memory_bytes=GIB)


async def test_a_name_is_taken_once_in_a_project(database: Database) -> None:
    async with database.write() as tx:
        await make_project(tx, "blue")
    await make_template(database)
    await make_template(database, project="blue")
    with pytest.raises(ConflictError) as refused:
        await make_template(database)
    assert refused.value.code == "template_exists"


async def test_a_machine_becomes_a_template_without_its_addresses(database: Database) -> None:
    platform = await cloud(database)
    nic = NicSpec(mac="52:54:00:00:00:01")
    vm = (await platform.create("web", cpus=2, nics=(nic,), labels={"app": "shop"}, start=False)).resource
    made = await make_template(database, from_vm="web", config=VmConfig(memory_bytes=GIB, labels={"tier": "front"}))
    assert (made.config.cpus, made.config.memory_bytes, made.config.nics) == (2, GIB, (NicSpec(),))
    assert (made.config.image, made.config.labels) == (vm.spec.image, {"app": "shop", "tier": "front"})
    assert made.config.start is None


async def test_a_machine_of_another_project_becomes_no_template(database: Database) -> None:
    platform = await cloud(database)
    vm = (await platform.create("web")).resource
    async with database.write() as tx:
        await make_project(tx, "blue")
    with pytest.raises(InvalidInputError) as refused:
        await make_template(database, project="blue", from_vm=vm.id)
    assert (refused.value.code, refused.value.field) == ("vm_of_other_project", "from_vm")
    with pytest.raises(NotFoundError):
        await make_template(database, project="blue", from_vm="web")


async def test_others_see_a_public_template_and_only_the_platform_makes_one(database: Database) -> None:
    await cloud(database)
    async with database.write() as tx:
        await make_project(tx, "blue")
    editor = await user(database, "ed", (Role.EDITOR, "default"))
    with pytest.raises(ForbiddenError):
        await make_template(database, principal=editor, visibility=Visibility.PUBLIC)
    await make_template(database, "inner", principal=editor)
    outer = await make_template(database, "outer", visibility=Visibility.PUBLIC)
    blue = await user(database, "bo", (Role.EDITOR, "blue"))
    async with database.read() as rd:
        seen = await templates.list_(rd, by("template:list", blue), query(project="blue"))
        assert [one.name for one in seen.items] == ["outer"]
        assert (await templates.show(rd, by("template:view", blue), "outer", project="blue")).id == outer.id
        with pytest.raises(NotFoundError):
            await templates.show(rd, by("template:view", blue), "inner", project="blue")
    async with database.write() as tx:
        with pytest.raises(ForbiddenError):
            await templates.delete(tx, by("template:delete", blue), outer.id)


async def test_a_public_template_needs_a_public_image(database: Database) -> None:
    platform = await cloud(database)
    await make_template(database, config=VmConfig(image="tiny"))
    with pytest.raises(ConflictError) as refused:
        await _update(database, "shop", visibility=Visibility.PUBLIC)
    assert refused.value.code == "template_image_private"
    async with database.write() as tx:
        await make_image(tx, platform.project, "open", visibility=Visibility.PUBLIC)
    changed = await _update(database, "shop", visibility=Visibility.PUBLIC, config=VmConfig(image="open"))
    assert changed.visibility is Visibility.PUBLIC
    with pytest.raises(ConflictError):
        await _update(database, "shop", config=VmConfig(image="tiny"))


async def test_an_unknown_image_or_a_bad_label_is_refused(database: Database) -> None:
    with pytest.raises(NotFoundError):
        await make_template(database, config=VmConfig(image="nothing"))
    with pytest.raises(InvalidInputError) as refused:
        await make_template(database, config=VmConfig(labels={"a b": "c"}))
    assert refused.value.field == "config.labels"


async def test_viewers_look_and_editors_change(database: Database) -> None:
    viewer = await user(database, "vi", (Role.VIEWER, "default"))
    made = await make_template(database)
    with pytest.raises(ForbiddenError):
        await make_template(database, "other", principal=viewer)
    async with database.write() as tx:
        assert (await templates.show(tx, by("template:view", viewer), "shop")).id == made.id
        for verb, work in (("update", templates.update(tx, by("template:update", viewer), "shop", TemplateUpdate())),
                           ("delete", templates.delete(tx, by("template:delete", viewer), "shop"))):  # fmt: skip
            with pytest.raises(ForbiddenError) as refused:
                await work
            assert f"template:{verb}" in refused.value.message


async def test_what_is_secret_is_shown_only_to_who_may_change_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SECRET_FIELDS", frozenset({"kernel_args"}))
    viewer = await user(database, "vi", (Role.VIEWER, "default"))
    editor = await user(database, "ed", (Role.EDITOR, "default"))
    made = await make_template(database, config=VmConfig(cpus=1, kernel_args="password=x"))
    await _update(database, "shop", config=VmConfig(kernel_args="password=y"))
    async with database.read() as rd:
        seen = await templates.show(rd, by("template:view", viewer), "shop")
        (listed,) = (await templates.list_(rd, by("template:list", viewer), query())).items
        old = await templates.revisions(rd, by("template:view", viewer), "shop", query())
        whole = await templates.show(rd, by("template:view", editor), "shop")
    assert (seen.config, seen.hidden) == (VmConfig(cpus=1), ("kernel_args",))
    assert listed == seen
    assert [(one.config.kernel_args, one.hidden) for one in old.items] == [(None, ("kernel_args",))] * 2
    assert (whole.config.kernel_args, whole.hidden) == ("password=y", ())
    assert "password" not in repr(await events_of(database, made.id))


async def test_events_say_what_was_changed(database: Database) -> None:
    made = await make_template(database, config=VmConfig(cpus=1))
    await _update(database, "shop", config=VmConfig(cpus=2))
    async with database.write() as tx:
        await templates.delete(tx, by("template:delete"), "shop")
    told = await events_of(database, made.id)
    assert [event.type for event in told] == ["template.created", "template.updated", "template.deleted"]
    assert told[1].details == {
        "before": {"revision": 1, "config": {"cpus": 1}},
        "after": {"revision": 2, "config": {"cpus": 2}},
    }


async def test_a_list_is_narrowed_by_label_name_and_visibility(database: Database) -> None:
    await make_template(database, "a", labels={"kind": "x"})
    await make_template(database, "b", visibility=Visibility.PUBLIC)
    async with database.read() as rd:
        for asked, names in (
            (query(labels={"kind": "x"}), ["a"]),
            (query(filters={"name": "b"}), ["b"]),
            (query(filters={"visibility": "public"}), ["b"]),
            (query(sort="-name"), ["b", "a"]),
        ):
            found = await templates.list_(rd, by("template:list"), asked)
            assert [one.name for one in found.items] == names


async def test_a_project_with_templates_is_not_empty(database: Database) -> None:
    await make_template(database)
    async with database.write() as tx:
        with pytest.raises(ConflictError) as refused:
            await projects.delete(tx, by("project:delete"), "default")
    assert "1 template" in refused.value.message


async def test_a_template_is_not_made_where_one_may_not(database: Database) -> None:
    stranger = await user(database, "st", (Role.VIEWER, PLATFORM))
    async with database.write() as tx:
        with pytest.raises(ForbiddenError):
            await templates.create(tx, by("template:create", stranger), TemplateCreate(name="x"))

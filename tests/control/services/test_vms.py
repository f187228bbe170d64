"""Machines as callers see them: every verb, from creation to the row's end."""

import pytest

from nacre.control.auth.principals import Principal
from nacre.control.services import operations, vms
from nacre.control.services.listing import ListQuery
from nacre.control.store import published_ports
from nacre.control.store.db import Database
from nacre.errors import (
    ConflictError,
    ExhaustedError,
    ForbiddenError,
    InvalidInputError,
    NotFoundError,
    PreconditionError,
)
from nacre.model.access import Role
from nacre.model.operations import OperationState
from nacre.model.units import GIB, MIB
from nacre.model.vms import Desired, Phase, PublishedPort
from nacre.schema.vms import VmCreate, VmStop, VmUpdate
from support.access import user
from support.cloud import Cloud, by, cloud, make_image, make_project
from support.ledger import event_types, events_of, operation_state

pytestmark = pytest.mark.anyio

WEB = PublishedPort(guest_port=80, host_port=8080)


async def test_a_machine_is_created_placed_run_and_deleted_without_a_trace(database: Database) -> None:
    platform = await cloud(database)
    accepted = await platform.create("web", publish=[WEB])
    assert accepted.resource.phase is Phase.PENDING
    assert accepted.operation.state is OperationState.RUNNING
    assert not accepted.resource.conditions.converged

    await platform.converge()
    vm = await platform.vm("web")
    assert (vm.phase, vm.desired, vm.conditions.converged) == (Phase.RUNNING, Desired.RUNNING, True)
    assert vm.node is not None
    assert vm.node.name == "node-1"
    assert await operation_state(database, accepted.operation.id) is OperationState.SUCCEEDED

    deletion = await platform.verb("delete")
    assert (await platform.vm("web")).desired is Desired.ABSENT
    await platform.converge()
    with pytest.raises(NotFoundError):
        await platform.vm("web")
    assert await operation_state(database, deletion.operation.id) is OperationState.SUCCEEDED
    async with database.read() as rd:
        assert await published_ports.held(rd) == []
    assert await event_types(database, vm.id) == [
        "vm.created",
        "vm.placed",
        "vm.started",
        "vm.delete_requested",
        "vm.deleted",
    ]


async def test_an_event_says_who_did_it_in_which_request_and_what_changed(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    await platform.verb("stop")
    asked = (await events_of(database, vm.id))[-1]
    assert (asked.type, asked.actor_name, asked.request_id) == ("vm.stop_requested", "root", "req")
    assert asked.details["before"] == {"desired": "running", "generation": 1}
    assert asked.details["after"] == {"desired": "stopped", "generation": 2}


async def test_a_machine_may_be_shown_by_id_from_anywhere_and_by_name_in_its_project(database: Database) -> None:
    platform = await cloud(database)
    vm = (await platform.create("web")).resource
    assert (await platform.vm(vm.id)).name == "web"
    async with database.write() as tx:
        await make_project(tx, "other")
    async with database.read() as rd:
        with pytest.raises(NotFoundError):
            await vms.show(rd, by("vm:view"), "web", project="other")


async def test_the_newest_intent_wins_and_supersedes_what_ran(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    stopped = await platform.verb("stop")
    started = await platform.verb("start")
    assert await operation_state(database, stopped.operation.id) is OperationState.SUPERSEDED
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING
    assert await operation_state(database, started.operation.id) is OperationState.SUCCEEDED
    assert started.generation == 3


async def test_a_machine_that_never_had_a_node_is_off_at_once_when_stopped(database: Database) -> None:
    platform = await cloud(database, node_count=0)
    await platform.create()
    stopped = await platform.verb("stop")
    assert stopped.operation.state is OperationState.SUCCEEDED
    assert stopped.resource.phase is Phase.STOPPED
    assert stopped.resource.conditions.converged


async def test_a_machine_that_is_not_to_start_needs_no_node_until_it_does(database: Database) -> None:
    platform = await cloud(database)
    accepted = await platform.create(start=False)
    assert accepted.operation.state is OperationState.SUCCEEDED
    await platform.converge()
    assert (await platform.vm("web")).node is None
    await platform.verb("start")
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING


async def test_a_machine_that_never_had_a_node_is_gone_as_soon_as_it_is_deleted(database: Database) -> None:
    platform = await cloud(database, node_count=0)
    vm = (await platform.create(publish=[WEB])).resource
    accepted = await platform.verb("delete")
    assert accepted.operation.state is OperationState.SUCCEEDED
    assert accepted.resource.phase is Phase.ABSENT
    with pytest.raises(NotFoundError):
        await platform.vm("web")
    assert (await event_types(database, vm.id))[-1] == "vm.deleted"


async def test_pause_and_resume_are_intents_like_any_other(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    await platform.verb("pause")
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.PAUSED
    await platform.verb("resume")
    await platform.converge()
    assert (await platform.vm("web")).phase is Phase.RUNNING
    assert (await event_types(database, vm.id))[-4:] == [
        "vm.pause_requested",
        "vm.paused",
        "vm.resume_requested",
        "vm.resumed",
    ]


@pytest.mark.parametrize(("verb", "field"), [("reboot", "reboot_nonce"), ("reset", "reset_nonce")])
async def test_each_request_raises_a_counter_that_the_node_carries_out_once(
    database: Database, verb: str, field: str
) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    first = await platform.verb(verb)
    second = await platform.verb(verb)
    intent = (await platform.agent.intents())[vm.id]
    assert getattr(intent, field) == 2
    assert await operation_state(database, first.operation.id) is OperationState.SUPERSEDED
    await platform.converge()
    assert await operation_state(database, second.operation.id) is OperationState.SUCCEEDED
    past = {"reboot": "vm.rebooted", "reset": "vm.reset"}[verb]
    assert (await event_types(database, vm.id)).count(past) == 1


async def test_a_forced_stop_after_a_graceful_one_is_told_to_the_node(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    await platform.verb("stop")
    assert not (await platform.agent.intents())[vm.id].force_stop
    await platform.verb("stop", "web", VmStop(force=True))
    assert (await platform.agent.intents())[vm.id].force_stop
    await platform.verb("start")
    assert not (await platform.agent.intents())[vm.id].force_stop


@pytest.mark.parametrize("verb", ["pause", "resume", "reboot", "reset"])
async def test_what_makes_no_sense_on_a_machine_that_is_off_is_refused_with_a_hint(
    database: Database, verb: str
) -> None:
    platform = await cloud(database)
    await platform.create(start=False)
    with pytest.raises(ConflictError) as refused:
        await platform.verb(verb)
    assert refused.value.code == "vm_not_running"
    assert "vm start web" in refused.value.hint
    assert (await platform.vm("web")).conditions.generation == 1


async def test_a_paused_machine_cannot_be_rebooted(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    await platform.verb("pause")
    with pytest.raises(ConflictError) as refused:
        await platform.verb("reboot")
    assert refused.value.code == "vm_paused"


async def test_nothing_brings_back_a_machine_on_its_way_out_but_it_may_be_deleted_again(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    await platform.verb("delete")
    for verb in ("start", "stop", "pause", "reset"):
        with pytest.raises(ConflictError) as refused:
            await platform.verb(verb)
        assert refused.value.code == "vm_being_deleted"
    with pytest.raises(ConflictError):
        await platform.verb("update", "web", VmUpdate(cpus=2))
    with pytest.raises(ConflictError) as taken:
        await platform.create("web")
    assert taken.value.code == "vm_name_taken"
    await platform.verb("delete")
    await platform.converge()
    await platform.create("web")


async def test_a_change_based_on_an_older_state_is_refused(database: Database) -> None:
    platform = await cloud(database)
    etag = (await platform.create()).resource.etag
    await platform.verb("stop", if_match=etag)
    with pytest.raises(PreconditionError):
        await platform.verb("start", if_match=etag)
    assert (await platform.vm("web")).desired is Desired.STOPPED


async def test_what_a_node_reports_does_not_make_a_callers_state_old(database: Database) -> None:
    platform = await cloud(database)
    etag = (await platform.create()).resource.etag
    await platform.converge()
    await platform.verb("stop", if_match=etag)


async def test_an_update_shows_what_needs_a_restart_until_it_happened(database: Database) -> None:
    platform = await cloud(database)
    await platform.running()
    accepted = await platform.verb("update", "web", VmUpdate(cpus=2, memory_bytes=GIB, labels={"tier": "front"}))
    assert accepted.resource.restart_required == ("cpus", "memory_bytes")
    assert accepted.resource.labels == {"tier": "front"}
    await platform.converge()
    assert (await platform.vm("web")).restart_required == ("cpus", "memory_bytes")
    for verb in ("stop", "start"):
        await platform.verb(verb)
        await platform.converge()
    vm = await platform.vm("web")
    assert vm.restart_required == ()
    asked = [event for event in await events_of(database, vm.id) if event.type == "vm.updated"]
    assert asked[0].details["before"] | {"desired": 0, "generation": 0} == {
        "labels": {},
        "cpus": 1,
        "memory_bytes": 512 * MIB,
        "desired": 0,
        "generation": 0,
    }


async def test_a_machine_cannot_outgrow_its_node(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("web", memory_bytes=4 * GIB)
    await platform.running("other", memory_bytes=8 * GIB)
    await platform.verb("update", "web", VmUpdate(memory_bytes=8 * GIB))
    with pytest.raises(ExhaustedError) as refused:
        await platform.verb("update", "web", VmUpdate(memory_bytes=9 * GIB))
    assert refused.value.code == "not_enough_memory"
    assert (await platform.vm("web")).spec.memory_bytes == 8 * GIB


async def test_a_used_port_is_refused_with_its_holder(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("web", publish=[WEB])
    with pytest.raises(ConflictError) as refused:
        await platform.create("late", publish=[PublishedPort(guest_port=80, host_port=8080, host_address="0.0.0.0")])
    assert refused.value.code == "port_in_use"
    assert "machine web" in refused.value.message
    assert refused.value.field == "publish[0].host_port"
    with pytest.raises(NotFoundError):
        await platform.vm("late")


async def test_a_port_is_held_before_there_is_a_node_if_only_one_node_can_get_it(database: Database) -> None:
    platform = await cloud(database)
    await platform.create("web", publish=[WEB], start=False)
    with pytest.raises(ConflictError):
        await platform.create("late", publish=[WEB], start=False)
    await platform.verb("delete")
    await platform.create("late", publish=[WEB], start=False)


async def test_the_holder_of_a_port_in_an_unseen_project_is_not_named(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("secret-name", publish=[WEB])
    tenant = await _tenant(platform)
    with pytest.raises(ConflictError) as refused:
        await platform.create("late", principal=tenant, project="theirs", publish=[WEB])
    assert "secret-name" not in refused.value.message + refused.value.hint
    assert "another machine" in refused.value.message


async def test_two_protocols_or_two_addresses_share_a_port(database: Database) -> None:
    platform = await cloud(database)
    await platform.create("web", publish=[WEB])
    other_address = {"guest_port": 80, "host_port": 8080, "host_address": "127.0.0.2"}
    other_protocol = {"guest_port": 80, "host_port": 8080, "protocol": "udp"}
    await platform.create("other", publish=[other_address, other_protocol])


async def test_a_changed_port_is_held_with_the_old_one_until_the_restart(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("web", publish=[WEB])
    await platform.verb("update", "web", VmUpdate(publish=(PublishedPort(guest_port=80, host_port=9090),)))
    for port in (8080, 9090):
        with pytest.raises(ConflictError):
            await platform.create("late", publish=[PublishedPort(guest_port=80, host_port=port)])
    for verb in ("stop", "start"):
        await platform.verb(verb)
        await platform.converge()
    await platform.create("late", publish=[WEB])
    with pytest.raises(ConflictError):
        await platform.verb("update", "late", VmUpdate(publish=(PublishedPort(guest_port=80, host_port=9090),)))


async def test_another_projects_machine_answers_like_a_missing_one(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    tenant = await _tenant(platform)
    async with database.write() as tx:
        with pytest.raises(NotFoundError) as hidden:
            await vms.show(tx, by("vm:view", tenant), vm.id)
        missing_id = vm.id[:-4] + "zzzz"
        with pytest.raises(NotFoundError) as missing:
            await vms.show(tx, by("vm:view", tenant), missing_id)
        assert hidden.value.code == missing.value.code
        assert hidden.value.message.replace(vm.id, missing_id) == missing.value.message
        with pytest.raises(NotFoundError):
            await vms.stop(tx, by("vm:stop", tenant), vm.id)
        assert (await vms.list_(tx, by("vm:list", tenant), ListQuery())).items == []


async def test_who_may_only_look_is_forbidden_to_change(database: Database) -> None:
    platform = await cloud(database)
    vm = await platform.running()
    viewer = await user(database, "eve", (Role.VIEWER, "default"))
    operator = await user(database, "otto", (Role.OPERATOR, "default"))
    async with database.write() as tx:
        assert (await vms.show(tx, by("vm:view", viewer), "web")).id == vm.id
        with pytest.raises(ForbiddenError):
            await vms.stop(tx, by("vm:stop", viewer), "web")
        await vms.stop(tx, by("vm:stop", operator), "web")
        with pytest.raises(ForbiddenError):
            await vms.delete(tx, by("vm:delete", operator), "web")
        with pytest.raises(ForbiddenError):
            await vms.create(tx, by("vm:create", operator), VmCreate(name="more", image="tiny"))


async def test_a_list_is_filtered_by_label_field_project_and_page(database: Database) -> None:
    platform = await cloud(database, node_count=2)
    for number in range(5):
        await platform.create(f"vm-{number}", labels={"parity": "odd" if number % 2 else "even"}, start=number < 3)
    await platform.converge()
    async with database.write() as tx:
        other = await make_project(tx, "other")
        await make_image(tx, other, "tiny")
        await vms.create(tx, by("vm:create"), VmCreate(name="far", image="tiny", project="other"))

    async def names(**query: object) -> list[str]:
        async with database.read() as rd:
            page = await vms.list_(rd, by("vm:list"), ListQuery(**query))  # type: ignore[arg-type]
        return [vm.name for vm in page.items]

    assert await names(project="default", labels={"parity": "odd"}) == ["vm-1", "vm-3"]
    assert await names(project="default", filters={"desired": "stopped"}) == ["vm-3", "vm-4"]
    assert await names(project="default", filters={"phase": "running"}) == ["vm-0", "vm-1", "vm-2"]
    assert await names(filters={"phase": "pending"}) == ["far"]
    assert await names(project="default", filters={"image": platform.image}, sort="-name", limit=2) == ["vm-4", "vm-3"]
    assert await names(project="*", filters={"image": "tiny"}) == ["far", "vm-0", "vm-1", "vm-2", "vm-3", "vm-4"]
    on_first = await names(filters={"node": platform.agents[0].node})
    on_second = await names(filters={"node": "node-2"})
    assert sorted(on_first + on_second) == ["vm-0", "vm-1", "vm-2"]
    assert on_first
    assert on_second


async def test_machines_are_counted_by_the_phase_that_is_shown(database: Database) -> None:
    platform = await cloud(database)
    await platform.running("one")
    await platform.running("two")
    await platform.create("three", start=False)
    async with database.read() as rd:
        assert await vms.phases(rd) == {"running": 2, "stopped": 1}


async def test_pages_follow_each_other_without_gaps(database: Database) -> None:
    platform = await cloud(database)
    for number in range(7):
        await platform.create(f"vm-{number}", start=False)
    seen: list[str] = []
    cursor: str | None = None
    while True:
        async with database.read() as rd:
            page = await vms.list_(rd, by("vm:list"), ListQuery(limit=3, cursor=cursor))
        seen += [vm.name for vm in page.items]
        cursor = page.next
        if cursor is None:
            break
    assert seen == [f"vm-{number}" for number in range(7)]


async def test_an_unknown_sort_is_an_error(database: Database) -> None:
    await cloud(database)
    async with database.read() as rd:
        with pytest.raises(InvalidInputError):
            await vms.list_(rd, by("vm:list"), ListQuery(sort="shoe-size"))


async def test_a_start_that_has_not_come_true_can_be_cancelled(database: Database) -> None:
    platform = await cloud(database)
    accepted = await platform.create()
    assert accepted.operation.cancellable
    async with database.write() as tx:
        ended = await operations.cancel(tx, by("operation:cancel"), accepted.operation.id, {"vm": vms.cancel})
    assert ended.state is OperationState.CANCELLED
    vm = await platform.vm("web")
    assert (vm.desired, vm.phase) == (Desired.STOPPED, Phase.STOPPED)
    await platform.converge()
    assert (await platform.vm("web")).node is None


async def test_what_has_come_true_cannot_be_cancelled(database: Database) -> None:
    platform = await cloud(database)
    accepted = await platform.create()
    await platform.converge()
    stop = await platform.verb("stop")
    for operation in (accepted.operation, stop.operation):
        async with database.write() as tx:
            with pytest.raises(ConflictError):
                await operations.cancel(tx, by("operation:cancel"), operation.id, {"vm": vms.cancel})
    assert (await platform.vm("web")).conditions.generation == 2


async def _tenant(platform: Cloud) -> Principal:
    """Somebody with a project of their own."""
    async with platform.db.write() as tx:
        theirs = await make_project(tx, "theirs")
        await make_image(tx, theirs)
    return await user(platform.db, "tina", (Role.ADMIN, "theirs"))

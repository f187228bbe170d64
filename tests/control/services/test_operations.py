"""Operations."""

import pytest

from nacre.control.auth.principals import Caller
from nacre.control.services import operations, projects
from nacre.control.services.listing import query
from nacre.control.store.db import Database, Tx
from nacre.control.store.operations import OperationRow
from nacre.control.wake import OPERATIONS
from nacre.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError
from nacre.lib.clock import ManualClock
from nacre.model.access import Role
from nacre.model.events import SYSTEM
from nacre.model.operations import OperationState
from nacre.schema.common import OperationOut
from support.access import admin, caller, user

pytestmark = pytest.mark.anyio

STATES = OperationState


async def _begin(
    database: Database, *, generation: int = 1, object_id: str = "vm-1", project: str | None = "default", **how
) -> OperationRow:
    async with database.write() as tx:
        owner = None if project is None else (await projects.resolve(tx, project)).id
        return await operations.begin(
            tx,
            type="vm.start",
            noun="vm",
            object_id=object_id,
            object_name="web",
            project=owner,
            generation=generation,
            actor=SYSTEM,
            **how,
        )


async def _settle(database: Database, *, generation: int, ok: bool = True, **how) -> bool:
    async with database.write() as tx:
        return await operations.settle(tx, "vm-1", generation=generation, ok=ok, **how)


async def _show(database: Database, row: OperationRow) -> OperationOut:
    async with database.read() as rd:
        return await operations.show(rd, admin("operation:view"), row.id)


async def test_an_operation_succeeds_when_its_generation_is_true(database: Database, clock: ManualClock) -> None:
    row = await _begin(database, generation=3)
    clock.advance(2)
    assert not await _settle(database, generation=2)
    assert (await _show(database, row)).state is STATES.RUNNING
    with database.wakes.listen(OPERATIONS) as bell:
        assert await _settle(database, generation=3)
        assert await bell.wait(0)
    shown = await _show(database, row)
    assert (shown.state, shown.progress, shown.finished_at) == (STATES.SUCCEEDED, 1.0, clock.now())
    assert (shown.project and shown.project.name, shown.created_by) == ("default", "nacre")
    assert not await _settle(database, generation=3)


async def test_a_failure_says_why(database: Database) -> None:
    row = await _begin(database)
    await _settle(database, generation=1, ok=False, code="no_kvm", message="it broke", hint="fix it")
    shown = await _show(database, row)
    assert (shown.state, shown.error_code, shown.message, shown.hint) == (STATES.FAILED, "no_kvm", "it broke", "fix it")


async def test_a_newer_change_supersedes_an_older_one_of_the_same_object(database: Database) -> None:
    older = await _begin(database, generation=1)
    other = await _begin(database, generation=1, object_id="vm-2")
    newer = await _begin(database, generation=2)
    states = [(await _show(database, row)).state for row in (older, other, newer)]
    assert states == [STATES.SUPERSEDED, STATES.RUNNING, STATES.RUNNING]


async def test_progress_is_shown_while_it_runs(database: Database) -> None:
    row = await _begin(database)
    async with database.write() as tx:
        await operations.progress(tx, "vm-1", 0.25, "fetching")
    shown = await _show(database, row)
    assert (shown.progress, shown.message) == (0.25, "fetching")


async def test_operations_of_other_projects_do_not_exist(database: Database) -> None:
    mine = await _begin(database)
    theirs = await _begin(database, object_id="node-1", project=None)
    ada = await user(database, "ada", (Role.VIEWER, "default"))
    async with database.read() as rd:
        page = await operations.list_(rd, caller(ada, "operation:list"), query())
        assert [item.id for item in page.items] == [mine.id]
        with pytest.raises(NotFoundError):
            await operations.show(rd, caller(ada, "operation:view"), theirs.id)
        with pytest.raises(NotFoundError):
            await operations.show(rd, caller(ada, "operation:view"), "op-nothing")
        assert len((await operations.list_(rd, admin("operation:list"), query())).items) == 2
        running = await operations.list_(rd, admin("operation:list"), query(filters={"state": "running"}))
        done = await operations.list_(rd, admin("operation:list"), query(filters={"state": "failed"}))
        with pytest.raises(InvalidInputError):
            await operations.list_(rd, admin("operation:list"), query(filters={"state": "odd"}))
        named = await operations.list_(rd, admin("operation:list"), query(filters={"object": "web"}))
        assert len(named.items) == 2, "by the name that the object had"
        elsewhere = await operations.list_(rd, caller(ada, "operation:list"), query(project="blue"))
    assert (len(running.items), done.items, elsewhere.items) == (2, [], [])


async def test_a_cancelled_operation_is_taken_back_by_the_service_of_its_noun(database: Database) -> None:
    row = await _begin(database, cancellable=True)
    taken_back: list[str] = []

    async def canceller(_tx: Tx, _caller: Caller, operation: OperationRow) -> None:
        taken_back.append(operation.object_id)

    async with database.write() as tx:
        shown = await operations.cancel(tx, admin("operation:cancel"), row.id, {"vm": canceller})
    assert (shown.state, taken_back) == (STATES.CANCELLED, ["vm-1"])
    async with database.write() as tx:
        with pytest.raises(ConflictError) as refused:
            await operations.cancel(tx, admin("operation:cancel"), row.id, {"vm": canceller})
    assert refused.value.code == "operation_finished"


async def test_a_canceller_that_refuses_leaves_the_operation_running(database: Database) -> None:
    row = await _begin(database, cancellable=True)

    async def canceller(_tx: Tx, _caller: Caller, _operation: OperationRow) -> None:
        raise ConflictError("too_late", "too late", hint="wait")

    with pytest.raises(ConflictError):
        async with database.write() as tx:
            await operations.cancel(tx, admin("operation:cancel"), row.id, {"vm": canceller})
    assert (await _show(database, row)).state is STATES.RUNNING


async def test_not_everything_can_be_cancelled_by_everyone(database: Database) -> None:
    fixed = await _begin(database)
    ada = await user(database, "ada", (Role.VIEWER, "default"))
    async with database.write() as tx:
        with pytest.raises(ConflictError) as refused:
            await operations.cancel(tx, admin("operation:cancel"), fixed.id, {})
        with pytest.raises(ForbiddenError):
            await operations.cancel(tx, caller(ada, "operation:cancel"), fixed.id, {})
    assert refused.value.code == "operation_not_cancellable"

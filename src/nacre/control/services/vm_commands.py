"""Commands in guests: who may, that it is told, and what came of those that are recorded. Running them is a stream.

Neither events nor records have the arguments, the environment or the input of a command: they may be secret.
"""

from dataclasses import replace
from datetime import timedelta

from nacre.control.auth.principals import Caller
from nacre.control.services import events, vms
from nacre.control.services.vm_access import Placed, placed
from nacre.control.store import vm_commands as store
from nacre.control.store.db import Read, Tx
from nacre.control.store.vm_commands import CommandRow
from nacre.errors import NotFoundError
from nacre.model.commands import ExecResult
from nacre.model.ids import CommandId
from nacre.schema.common import Page
from nacre.schema.guests import CommandOut, CommandState

KEPT = 100
"""So many commands of each machine are remembered."""
_SLACK_S = 120.0
_PROGRAM = 100
_EXEC = "exec"


async def may(rd: Read, caller: Caller, ref: str, *, project: str | None = None) -> None:
    """Raise NacreError unless the caller may run commands in this machine now."""
    await placed(rd, caller, ref, kind=_EXEC, project=project)


async def announce(tx: Tx, caller: Caller, ref: str, program: str, *, project: str | None = None) -> Placed:
    """Tell of a command that is about to run, and return where."""
    found = await placed(tx, caller, ref, kind=_EXEC, project=project)
    _tell(tx, caller, found, program)
    return found


async def begin(
    tx: Tx, caller: Caller, ref: str, program: str, timeout_s: float, *, project: str | None = None
) -> tuple[Placed, CommandOut]:
    """Record a command that is about to run, and tell of it."""
    found = await announce(tx, caller, ref, program, project=project)
    now = tx.now()
    row = CommandRow(
        id=CommandId(tx.new_id("command")),
        vm=found.vm.id,
        program=shown(program),
        state=CommandState.RUNNING,
        created_by=caller.actor.name,
        started_at=now,
        deadline=now + timedelta(seconds=timeout_s + _SLACK_S),
    )
    await store.add(tx, row, most=KEPT)
    return found, out(row, tx)


async def finish(
    tx: Tx, caller: Caller, command: CommandId, result: ExecResult, stdout: bytes, stderr: bytes
) -> CommandOut:
    """Record how it ended. Raises NotFoundError if its machine is gone meanwhile."""
    row = await _found(tx, caller, None, command)
    row = replace(
        row,
        state=CommandState.FAILED if result.code else CommandState.ENDED,
        exit_code=result.exit_code,
        signal=result.signal,
        timed_out=result.timed_out,
        stdout=stdout,
        stderr=stderr,
        stdout_truncated=result.stdout_truncated,
        stderr_truncated=result.stderr_truncated,
        code=result.code,
        message=result.message,
        hint=result.hint,
        ended_at=tx.now(),
    )
    await store.save(tx, row)
    return out(row, tx)


async def show(rd: Read, caller: Caller, vm: str, command: str, *, project: str | None = None) -> CommandOut:
    """Return a recorded command. Raises NotFoundError."""
    machine = await vms.resolve(rd, caller, vm, project)
    return out(await _found(rd, caller, machine.id, command), rd)


async def list_(rd: Read, caller: Caller, vm: str, *, project: str | None = None) -> Page[CommandOut]:
    """Return the recorded commands of a machine, the newest first."""
    machine = await vms.resolve(rd, caller, vm, project)
    return Page(items=[out(row, rd) for row in await store.of(rd, machine.id)])


def out(row: CommandRow, rd: Read) -> CommandOut:
    """Show a record. One whose runner is gone has failed, though nobody could write that."""
    lost = row.state is CommandState.RUNNING and rd.now() > row.deadline
    return CommandOut(
        id=row.id,
        vm=row.vm,
        program=row.program,
        state=CommandState.FAILED if lost else row.state,
        exit_code=row.exit_code,
        signal=row.signal,
        timed_out=row.timed_out,
        stdout=row.stdout.decode(errors="replace"),
        stderr=row.stderr.decode(errors="replace"),
        stdout_truncated=row.stdout_truncated,
        stderr_truncated=row.stderr_truncated,
        code="command_lost" if lost else row.code,
        message="the control plane stopped while the command ran" if lost else row.message,
        hint="look in the guest for what it has done" if lost else row.hint,
        created_by=row.created_by,
        started_at=row.started_at,
        ended_at=row.ended_at,
    )


def shown(program: str) -> str:
    """Return the program of a command as it may be told: one short line."""
    return "".join(char if char.isprintable() else " " for char in program[:_PROGRAM])


async def _found(rd: Read, caller: Caller, vm: str | None, command: str) -> CommandRow:
    row = await store.get(rd, command)
    if row is None or (vm is not None and row.vm != vm):
        caller.checked = True
        raise NotFoundError(
            "command_not_found",
            f"there is no command {command}",
            hint=f"list them with `nacre vm commands`; the newest {KEPT} of a machine are kept",
        )
    await vms.resolve(rd, caller, row.vm)
    return row


def _tell(tx: Tx, caller: Caller, found: Placed, program: str) -> None:
    events.emit(
        tx,
        type="vm.exec",
        actor=caller.actor,
        noun="vm",
        object_id=found.vm.id,
        object_name=found.vm.name,
        project=found.vm.project,
        message=f"{shown(program)} is run in machine {found.vm.name}",
        request_id=caller.request_id,
        details={"program": shown(program)},
    )

"""The table of commands that were run in guests, with what they printed, and its queries. Goes with its machine."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Choice, Timestamp
from nacre.model.ids import CommandId, VmId
from nacre.schema.guests import CommandState

vm_commands = Table(
    "vm_commands",
    metadata,
    Column("id", Text, primary_key=True),
    Column("vm", Text, ForeignKey("vms.id", ondelete="CASCADE"), nullable=False),
    Column("program", Text, nullable=False),
    Column("state", Choice(CommandState), nullable=False),
    Column("exit_code", Integer),
    Column("signal", Integer),
    Column("timed_out", Boolean, nullable=False),
    Column("stdout", LargeBinary, nullable=False),
    Column("stderr", LargeBinary, nullable=False),
    Column("stdout_truncated", Boolean, nullable=False),
    Column("stderr_truncated", Boolean, nullable=False),
    Column("code", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_by", Text, nullable=False),
    Column("started_at", Timestamp, nullable=False),
    Column("deadline", Timestamp, nullable=False),
    Column("ended_at", Timestamp),
    Index("ix_vm_commands_vm", "vm"),
)


@dataclass(frozen=True, kw_only=True)
class CommandRow:
    """A command as recorded. Its arguments, its environment and its input are not."""

    id: CommandId
    vm: VmId
    program: str
    state: CommandState
    exit_code: int | None = None
    signal: int | None = None
    timed_out: bool = False
    stdout: bytes = b""
    stderr: bytes = b""
    stdout_truncated: bool = False
    stderr_truncated: bool = False
    code: str = ""
    message: str = ""
    hint: str = ""
    created_by: str
    started_at: datetime
    deadline: datetime
    """When whoever runs it has given up at the latest."""
    ended_at: datetime | None = None


async def add(tx: Tx, row: CommandRow, *, most: int) -> None:
    """Record a command, and forget the oldest of its machine if there are more than `most`."""
    await tx.connection.execute(insert(vm_commands).values(**vars(row)))
    newest = select(vm_commands.c.id).where(vm_commands.c.vm == row.vm).order_by(vm_commands.c.id.desc())
    kept = [found.id for found in await tx.connection.execute(newest.limit(most))]
    if len(kept) == most:
        await tx.connection.execute(delete(vm_commands).where(vm_commands.c.vm == row.vm, vm_commands.c.id < min(kept)))


async def save(tx: Tx, row: CommandRow) -> None:
    """Record how a command ended. Its machine may be gone meanwhile, and the record with it."""
    values = {name: value for name, value in vars(row).items() if name not in {"id", "vm"}}
    await tx.connection.execute(update(vm_commands).where(vm_commands.c.id == row.id).values(**values))


async def get(rd: Read, command: str) -> CommandRow | None:
    """Return a command."""
    found = (await rd.connection.execute(select(vm_commands).where(vm_commands.c.id == command))).one_or_none()
    return None if found is None else load(CommandRow, found)


async def of(rd: Read, vm: VmId) -> list[CommandRow]:
    """Return the commands of a machine, the newest first."""
    query = select(vm_commands).where(vm_commands.c.vm == vm).order_by(vm_commands.c.id.desc())
    return [load(CommandRow, row) for row in await rd.connection.execute(query)]

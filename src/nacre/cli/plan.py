"""`nacre plan`: what would become of machines if they were created now."""

import sys
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter

from nacre.cli import exits, output, written
from nacre.cli.exits import one_line
from nacre.cli.session import Here, Session
from nacre.errors import InvalidInputError
from nacre.model.units import format_size
from nacre.schema.scheduling import PackingOrder, PlanBody, PlannedVm, PlanOut

_HINT = "a list of machines, each with name, image and perhaps count, cpus, memory, disk, labels, placement, priority"


async def plan(
    *,
    file: Annotated[str, Parameter(name=["--file", "-f"], help="The machines, as YAML or JSON; - for standard input.")],
    order: Annotated[
        PackingOrder | None,
        Parameter(help="Lay them out as a group, instead of one after the other as creating them would."),
    ] = None,
    session: Here,
) -> int:
    """Say where machines would go and what would not fit, without creating anything.

    The file is a list of machines, or a mapping with such a list under `machines` and perhaps an `order`. A machine
    has the fields of the API: name and image, and what it needs besides. Sizes may be written as memory: 2GiB and
    disk: 10GiB, and count: 3 makes three of a kind. Ends with 0 only if everything fits.
    """
    body = parse(_read(file), session, order)
    async with session.client() as nacre:
        planned = await nacre.scheduler.plan(body)
    if session.output != "table":
        output.document(session, planned)
    else:
        show(planned)
    return exits.OK if planned.totals.fitting == planned.totals.machines else exits.ERROR


def parse(text: str, session: Session, order: PackingOrder | None) -> PlanBody:
    """Return a plan written as YAML or JSON. Raises InvalidInputError that names the field."""
    found = written.loaded(text, "the plan", hint=f"write {_HINT}")
    whole = dict(cast("dict[str, Any]", found)) if isinstance(found, dict) else {"machines": found}
    machines = whole.get("machines")
    if not isinstance(machines, list) or not machines:
        raise InvalidInputError("empty_plan", "the plan has no machines", hint=f"write {_HINT}", field="machines")
    items = cast("list[Any]", machines)
    whole["machines"] = [_item(item, f"machines[{index}]", session) for index, item in enumerate(items)]
    if order is not None:
        whole["order"] = order
    for index, item in enumerate(whole["machines"]):
        _convert({"machines": [item]}, f"machines[{index}]")
    return _convert(whole, "")


def show(planned: PlanOut) -> None:
    """Print a plan: a line for each machine, why some do not fit, and what it is in all."""
    output.table(
        ["NAME", "FITS", "NODE", "CPUS", "MEMORY", "DISK", "WHY"], [_row(machine) for machine in planned.machines]
    )
    totals = planned.totals
    print(
        f"\n{totals.fitting} of {totals.machines} machines fit, on {totals.nodes} nodes; in all {totals.cpus} CPUs, "
        f"{format_size(totals.memory_bytes)} of memory, {format_size(totals.disk_bytes)} of disk"
    )
    for hint in dict.fromkeys(machine.hint for machine in planned.machines if machine.hint):
        print(f"what to do: {one_line(hint)}")


def _row(machine: PlannedVm) -> list[str]:
    return [
        machine.name,
        "yes" if machine.fits else "no",
        machine.node.name if machine.node is not None else "-",
        str(machine.cpus),
        format_size(machine.memory_bytes),
        format_size(machine.disk_bytes),
        "" if machine.fits else machine.summary,
    ]


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInputError(
            "unreadable_plan", f"cannot read {file}: {reason}", hint="name a file, or - for standard input"
        ) from error


def _item(item: Any, path: str, session: Session) -> Any:
    if not isinstance(item, dict):
        raise InvalidInputError("invalid_plan", f"{path} is not a machine", hint=f"write {_HINT}", field=path)
    fields = dict(cast("dict[str, Any]", item))
    fields.setdefault("project", session.project)
    return written.in_bytes(fields, path)


def _convert(whole: dict[str, Any], path: str) -> PlanBody:
    try:
        return msgspec.convert(whole, PlanBody)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `")
        field = where.rstrip("`").removeprefix("$").removeprefix(".")
        field = field.replace("machines[...]", path).replace("machines[0]", path) if path else field
        raise InvalidInputError(
            "invalid_plan",
            f"{field or 'the plan'}: {said[:1].lower()}{said[1:]}",
            hint="the fields are those of a machine in the API, plus count, memory and disk",
            field=field or None,
        ) from error

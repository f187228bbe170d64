"""How previews and differences look on a terminal."""

import sys

from nacre.cli import output
from nacre.cli.configuring import value_text
from nacre.cli.exits import one_line
from nacre.cli.session import Session
from nacre.schema.templates import DiffOut, FieldOut, PreviewOut

HIDDEN = "(hidden)"


def show(session: Session, seen: PreviewOut) -> None:
    """Print what would be made, a field in a line with who says so."""
    if session.output != "table":
        output.document(session, seen)
        return
    for line in _head(seen):
        print(one_line(line))
    output.table(["FIELD", "VALUE", "FROM"], [[field.path, _value(field, seen), field.layer] for field in seen.fields])
    if seen.missing:
        print(f"to be given with the machine: {', '.join(seen.missing)}")


def show_differences(session: Session, found: DiffOut) -> None:
    """Print differences, a field in a line; on the terminal's other stream that there are none."""
    if session.output != "table":
        output.document(session, found)
    elif not found.differences:
        print(one_line(f"{found.left} and {found.right} are the same"), file=sys.stderr)
    else:
        rows = [
            [one.path, *((HIDDEN, HIDDEN) if one.hidden else (value_text(one.left), value_text(one.right)))]
            for one in found.differences
        ]
        output.table(["FIELD", found.left.upper(), found.right.upper()], rows)


def _head(seen: PreviewOut) -> list[str]:
    many = len(seen.names)
    lines: list[str] = []
    if many == 1:
        lines.append(f"would create {seen.names[0]}")
    elif many:
        lines.append(f"would create {many} machines: {seen.names[0]} to {seen.names[-1]}")
    if seen.template is not None:
        lines.append(f"template {seen.template}")
    if seen.instance_type is not None:
        lines.append(f"instance type {seen.instance_type}")
    return lines


def _value(field: FieldOut, seen: PreviewOut) -> str:
    if field.hidden:
        return HIDDEN
    if field.path == "image" and seen.image is not None:
        return seen.image.name
    return value_text(field.value)

"""Parts of a machine's configuration as people write them: options, and files with every field of the API.

Used by templates and instance types, which know no more of a configuration than this.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
import yaml
from cyclopts import Parameter

from nacre.cli import arguments
from nacre.cli.exits import one_line
from nacre.errors import InvalidInputError
from nacre.model.units import parse_size
from nacre.schema.vms import VmConfig

_SIZES = {"memory": "memory_bytes", "disk": "disk_bytes"}
_HINT = "write fields of a machine as in the API, such as cpus: 2, and sizes as memory: 2GiB and disk: 10GiB"

Clear = Annotated[
    tuple[str, ...],
    Parameter(name="--clear", negative=(), help="Field of the configuration that is no longer given. Repeatable."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Sized:
    """Parts of a configuration that are a matter of size."""

    file: Annotated[
        str | None,
        Parameter(
            name=["--file", "-f"],
            help="Parts of a configuration as YAML or JSON, with fields of the API, memory: 2GiB, disk: 10GiB; - for "
            "standard input. Options go before it.",
        ),
    ] = None
    cpus: Annotated[int | None, Parameter(help="Virtual CPUs.")] = None
    memory: Annotated[str | None, Parameter(help="Memory, such as 512MiB.", allow_leading_hyphen=True)] = None
    disk: Annotated[str | None, Parameter(help="Size of the root disk, such as 10GiB.", allow_leading_hyphen=True)] = (
        None
    )


UNSIZED = Sized()


def config(asked: Sized, **more: object) -> VmConfig:
    """Return what options and a file give; `more` are further fields, null if not given. Raises InvalidInputError."""
    given = {
        "cpus": arguments.cpus(asked.cpus),
        "memory_bytes": arguments.memory(asked.memory),
        "disk_bytes": arguments.disk(asked.disk),
        **more,
    }
    whole = {} if asked.file is None else parse(_read(asked.file))
    return _convert({**whole, **{name: msgspec.to_builtins(value) for name, value in given.items() if value}})


def parse(text: str) -> dict[str, Any]:
    """Return the fields that are written as YAML or JSON. Raises InvalidInputError."""
    try:
        written: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(
            "malformed_configuration", f"this is neither YAML nor JSON: {one_line(str(error))}", hint=_HINT
        ) from error
    if not isinstance(written, dict):
        raise InvalidInputError("invalid_configuration", "a configuration has fields, this has none", hint=_HINT)
    fields = dict(cast("dict[str, Any]", written))
    for short, name in _SIZES.items():
        if short in fields:
            fields[name] = parse_size(str(fields.pop(short)), field=short)
    return fields


def lines(given: VmConfig) -> list[tuple[str, str]]:
    """Return what a configuration gives, a field each, as it would be written."""
    plain = cast("dict[str, Any]", msgspec.to_builtins(given))
    return [(name, value_text(value)) for name, value in plain.items() if value is not None and value != {}]


def value_text(value: object) -> str:
    """Return a value of the API on one line."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _read(file: str) -> str:
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise InvalidInputError(
            "unreadable_configuration", f"cannot read {file}: {reason}", hint="name a file, or - for standard input"
        ) from error


def _convert(fields: dict[str, Any]) -> VmConfig:
    try:
        return msgspec.convert(fields, VmConfig)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `")
        field = where.rstrip("`").removeprefix("$").removeprefix(".")
        raise InvalidInputError(
            "invalid_configuration",
            f"{field or 'the configuration'}: {said[:1].lower()}{said[1:]}",
            hint=_HINT,
            field=field or None,
        ) from error

"""Parts of a machine's configuration as people write them: options, and files with every field of the API.

Used by templates and instance types, which know no more of a configuration than this.
"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

import msgspec
from cyclopts import Parameter

from nacre.cli import arguments, written
from nacre.errors import InvalidInputError
from nacre.schema.vms import VmConfig

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
    whole = {} if asked.file is None else written.fields(arguments.text_of(asked.file, "file"), asked.file)
    return _convert({**whole, **{name: msgspec.to_builtins(value) for name, value in given.items() if value}})


def lines(given: VmConfig) -> list[tuple[str, str]]:
    """Return what a configuration gives, a field each, as it would be written."""
    plain = cast("dict[str, Any]", msgspec.to_builtins(given))
    return [(name, value_text(value)) for name, value in plain.items() if value is not None and value != {}]


def value_text(value: object) -> str:
    """Return a value of the API on one line."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _convert(fields: dict[str, Any]) -> VmConfig:
    try:
        return msgspec.convert(fields, VmConfig)
    except msgspec.ValidationError as error:
        said, _, where = str(error).partition(" - at `")
        field = where.rstrip("`").removeprefix("$").removeprefix(".")
        raise InvalidInputError(
            "invalid_configuration",
            f"{field or 'the configuration'}: {said[:1].lower()}{said[1:]}",
            hint=written.HINT,
            field=field or None,
        ) from error

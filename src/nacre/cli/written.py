"""What is written of machines in files, as YAML or JSON: fields of the API, and sizes as people write them.

Used by machines, templates, instance types and plans, so that the same text does for all of them. Pure.
"""

from typing import Any, cast

import yaml

from nacre.cli.exits import one_line
from nacre.errors import InvalidInputError
from nacre.model.units import parse_size

Tree = dict[str, Any]

HINT = "write fields of a machine as in the API, such as cpus: 2, and sizes as memory: 2GiB and disk: 10GiB"
_SHORT = {"memory": "memory_bytes", "disk": "disk_bytes"}


def loaded(text: str, where: str, *, hint: str = HINT) -> Any:
    """Return what a text in YAML or JSON says. Raises InvalidInputError with the line and column of a mistake."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(
            "malformed_file", f"{where} is neither YAML nor JSON: {_mistake(error)}", hint=hint, field="file"
        ) from error


def fields(text: str, where: str) -> Tree:
    """Return the fields that a text gives a machine, by their names in the API. Raises InvalidInputError."""
    where = "standard input" if where == "-" else where
    found = loaded(text, where)
    if not isinstance(found, dict):
        raise InvalidInputError("no_fields", f"{where} has no fields", hint=HINT, field="file")
    return in_bytes(cast("Tree", found))


def in_bytes(given: Tree, path: str = "") -> Tree:
    """Return fields, found at `path`, with sizes in bytes under the API's names, whichever way they are written."""
    found: Tree = {}
    for name, value in given.items():
        whole = _SHORT.get(name)
        if whole is None or isinstance(value, dict):  # `memory` with fields of its own is the API's
            found[name] = sized(str(name), cast("object", value))
        elif whole in given:
            raise InvalidInputError(
                "said_twice", f"{name} and {whole} are the same", hint="leave one of the two out", field=name
            )
        else:
            found[whole] = None if value is None else parse_size(str(value), field=f"{path}.{name}" if path else name)
    return found


def sized(name: str, value: object) -> object:
    """Let sizes be written with their units, wherever a field takes bytes."""
    if isinstance(value, dict):
        return {key: sized(str(key), inner) for key, inner in cast("Tree", value).items()}
    if isinstance(value, list):
        return [sized("", inner) for inner in cast("list[object]", value)]
    return parse_size(value, field=name) if isinstance(value, str) and name.endswith("_bytes") else value


def _mistake(error: yaml.YAMLError) -> str:
    """What is wrong, and where."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        said = error.problem or error.context or "it cannot be read"
        return one_line(f"line {mark.line + 1}, column {mark.column + 1}: {said}")
    return one_line(" ".join(str(error).split()))

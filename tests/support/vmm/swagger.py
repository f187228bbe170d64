"""Checks requests against Firecracker's own API document, stricter than that: what it does not name is wrong.

The document is no part of the project. It is looked for where `NACRE_SPECS` says, or beside the working copy; without
it requests are not checked, and whoever asks is told so.
"""

import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import jsonschema_rs
import yaml

SPECS = "NACRE_SPECS"
_BESIDE = Path(__file__).parents[4] / "shared" / "reference" / "specs"
_FILE = "firecracker.yaml"

# What its code has and the document lacks: requests without a body whose path is not there.
_MORE = {("DELETE", "/drives/{drive_id}"), ("DELETE", "/network-interfaces/{iface_id}"), ("DELETE", "/pmem/{id}")}


class StrayError(Exception):
    """A request that the document does not know."""


def document() -> Path | None:
    """Where the document is; None if it is not there."""
    path = Path(os.environ.get(SPECS) or _BESIDE) / _FILE
    return path if path.exists() else None


def check(method: str, path: str, body: object) -> None:
    """Raise StrayError if the document does not allow this request."""
    found = document()
    assert found is not None, "ask for the document first"
    spec = _loaded(found)
    operation = _operation(spec, method, path)
    parameters = [each for each in operation.get("parameters", []) if each["in"] == "body"]
    if not parameters:
        if body is not None:
            raise StrayError(f"{method} {path} takes no body")
        return
    if body is None:
        if parameters[0].get("required"):
            raise StrayError(f"{method} {path} needs a body")
        return
    schema = _strict(spec, parameters[0]["schema"], partial=method == "PATCH")
    try:
        jsonschema_rs.Draft4Validator(schema).validate(body)
    except jsonschema_rs.ValidationError as error:
        raise StrayError(f"{method} {path}: {error.message}") from error


def operations() -> list[str]:
    """Everything that the document names, as `METHOD path`."""
    found = document()
    assert found is not None, "ask for the document first"
    paths = _loaded(found)["paths"]
    return [f"{method.upper()} {path}" for path, operations in paths.items() for method in operations]


def check_trace(trace: Path) -> int:
    """Check everything that a stand-in was asked, and return how much that was. Raises StrayError."""
    requests = [json.loads(line) for line in trace.read_text().splitlines()] if trace.exists() else []
    for each in requests:
        check(each["method"], each["path"], None if each["body"] is None else json.loads(each["body"]))
    return len(requests)


@cache
def _loaded(path: Path) -> dict:
    return yaml.safe_load(path.read_text())


def _operation(spec: dict, method: str, path: str) -> dict:
    for template, operations in spec["paths"].items():
        pattern = re.sub(r"\{[^}]*\}", "[^/]+", template)
        if re.fullmatch(pattern, path):
            if method.lower() in operations:
                return operations[method.lower()]
            if (method, template) in _MORE:
                return {}
    raise StrayError(f"there is no {method} {path}")


def _strict(spec: dict, schema: dict, *, partial: bool) -> dict:
    """Resolve references, and allow only what is named."""
    if "$ref" in schema:
        return _strict(spec, spec["definitions"][schema["$ref"].rpartition("/")[2]], partial=partial)
    made = {key: value for key, value in schema.items() if key in {"type", "enum", "minimum", "maximum"}}
    if "properties" in schema:
        made["properties"] = {name: _strict(spec, each, partial=False) for name, each in schema["properties"].items()}
        made["additionalProperties"] = False
        identifiers = [name for name in schema.get("required", []) if name.endswith("_id")]
        if required := identifiers if partial else schema.get("required", []):
            made["required"] = required
    if "items" in schema:
        made["items"] = _strict(spec, schema["items"], partial=False)
    return made


def mutants(body: dict) -> Iterator[tuple[str, dict]]:
    """Bodies that differ from a good one by one member, at any depth: renamed, added, or of another type."""
    for name, value in body.items():
        rest = {key: each for key, each in body.items() if key != name}
        yield f"{name} renamed", rest | {f"{name}_": value}
        yield f"{name} of another type", rest | {name: [[value]]}
        if isinstance(value, dict):
            for what, inner in mutants(value):
                yield f"{name}: {what}", rest | {name: inner}
    yield "one more", body | {"extra": 1}

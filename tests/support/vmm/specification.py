"""The official API documents of hypervisors, and whether a request is in keeping with them.

They are no part of the project: `NACRE_SPECS` names their folder, or they lie beside the work folder; without them
nothing is checked. Fields that a document does not name are errors, because a hypervisor drops them without a word.
"""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import cast

import yaml

_ROOT = Path(__file__).parents[3]
_FOLDERS = ("../shared/reference/specs", "../../shared/reference/specs")
_KINDS: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}

Document = Mapping[str, object]


@cache
def find(name: str) -> "Specification | None":
    """Return the document called so, such as `cloud-hypervisor`; None if it is not here."""
    places = [os.environ["NACRE_SPECS"]] if os.environ.get("NACRE_SPECS") else [_ROOT / each for each in _FOLDERS]
    for place in places:
        path = Path(place) / f"{name}.yaml"
        if path.exists():
            return Specification(yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    return None


class Specification:
    """One document, of OpenAPI 3."""

    def __init__(self, document: Document) -> None:
        self._document = document
        servers = cast("list[Mapping[str, str]]", document.get("servers") or [])
        self._base = "/" + servers[0]["url"].partition("://")[2].partition("/")[2].rstrip("/")

    def operations(self) -> list[tuple[str, str]]:
        """Every method and path that it names."""
        paths = cast("Mapping[str, Mapping[str, object]]", self._document["paths"])
        return [(method.upper(), self._base + path) for path, found in paths.items() for method in found]

    def problems(self, method: str, path: str, body: object) -> list[str]:
        """Say what is wrong with a request; nothing if it is as the document wants it."""
        found = self._operation(method, path)
        if found is None:
            return [f"{method} {path}: there is no such operation"]
        schema = self._schema_of(found)
        if schema is None:
            return [] if body is None else [f"{method} {path}: a body where none belongs"]
        if body is None:
            return [f"{method} {path}: no body"]
        return list(self._wrong(schema, body, f"{method} {path}"))

    def _operation(self, method: str, path: str) -> Mapping[str, object] | None:
        paths = cast("Mapping[str, Mapping[str, Mapping[str, object]]]", self._document["paths"])
        return paths.get(path.removeprefix(self._base), {}).get(method.lower())

    def _schema_of(self, operation: Mapping[str, object]) -> Document | None:
        content = cast("Mapping[str, Mapping[str, Mapping[str, object]]]", operation.get("requestBody") or {})
        return cast("Document", content["content"]["application/json"]["schema"]) if content else None

    def _wrong(self, schema: Document, value: object, where: str) -> Iterator[str]:
        schema = self._resolved(schema)
        kind = str(schema.get("type") or ("object" if "properties" in schema else ""))
        if kind and (not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
            yield f"{where}: {value!r} is no {kind}"
            return
        choices = cast("list[object]", schema.get("enum") or [])
        if choices and value not in choices:
            yield f"{where}: {value!r} is none of {choices}"
        if isinstance(value, int | float) and not isinstance(value, bool):
            least, most = (cast("float | None", schema.get(name)) for name in ("minimum", "maximum"))
            if (least is not None and value < least) or (most is not None and value > most):
                yield f"{where}: {value} is out of range"
        if isinstance(value, list):
            for index, each in enumerate(cast("list[object]", value)):
                yield from self._wrong(cast("Document", schema.get("items") or {}), each, f"{where}[{index}]")
        if isinstance(value, dict) and kind == "object":
            yield from self._wrong_fields(schema, cast("Mapping[str, object]", value), where)

    def _wrong_fields(self, schema: Document, value: Mapping[str, object], where: str) -> Iterator[str]:
        fields = cast("Mapping[str, Document]", schema.get("properties") or {})
        required = set(cast("list[str]", schema.get("required") or []))
        yield from (f"{where}: {name} is missing" for name in sorted(required - set(value)))
        if not fields:  # an object of anything
            return
        for name, each in value.items():
            if name in fields:
                yield from self._wrong(fields[name], each, f"{where}.{name}")
            else:
                yield f"{where}: there is no field {name}"

    def _resolved(self, schema: Document) -> Document:
        while "$ref" in schema:
            found: object = self._document
            for name in str(schema["$ref"]).removeprefix("#/").split("/"):
                found = cast("Mapping[str, object]", found)[name]
            schema = cast("Document", found)
        return schema


def traced(path: Path) -> list[tuple[str, str, object]]:
    """Return the requests that a stand-in has noted (`wire.TRACE`): method, path, and body as JSON."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = [cast("Mapping[str, str | None]", json.loads(line)) for line in lines]
    return [
        (str(each["method"]), str(each["path"]), json.loads(each["body"]) if each["body"] else None) for each in found
    ]

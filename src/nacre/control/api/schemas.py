"""Types as JSON Schema, with the docstrings of their fields as descriptions. Used by `openapi`. Reads our own source.

msgspec makes the schemas, so they say exactly what it accepts; it knows class docstrings but not those of fields.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import msgspec

REF = "#/components/schemas/{name}"
Schema = dict[str, Any]


def components(types: Iterable[Any]) -> tuple[list[Schema], dict[str, Schema]]:
    """Return one schema per type, and the named schemas that they refer to."""
    wanted = list(types)
    schemas, named = msgspec.json.schema_components(wanted, ref_template=REF)
    for kind in _structs(wanted):
        for name, schema in named.items():
            if name == kind.__name__ or name.startswith(f"{kind.__name__}_"):
                describe(schema, kind)
    shorter = {REF.format(name=name): REF.format(name=_short(name)) for name in named}
    return (
        [_renamed(schema, shorter) for schema in schemas],
        {_short(name): _renamed(schema, shorter) for name, schema in sorted(named.items())},
    )


def describe(schema: Schema, kind: type[msgspec.Struct]) -> None:
    """Add the docstrings of `kind`'s fields to the properties of its schema."""
    texts = field_docs(kind)
    for name, prop in schema.get("properties", {}).items():
        if name in texts and "description" not in prop:
            prop["description"] = texts[name]


def field_docs(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Return the text below each field of a struct and its bases: a string that follows the field's definition."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not issubclass(base, msgspec.Struct) or base.__module__.startswith("msgspec"):
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for field, after in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                docs[field.target.id] = " ".join(after.value.value.split())
    return docs


def _structs(types: Iterable[Any]) -> list[type[msgspec.Struct]]:
    """Every struct class that can be reached from these types."""
    found: dict[Any, None] = {}
    for info in msgspec.inspect.multi_type_info(list(types)):
        _walk(info, found)
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]


def _walk(info: Any, found: dict[Any, None]) -> None:
    if isinstance(info, msgspec.inspect.StructType):
        cls = getattr(info.cls, "__origin__", info.cls)
        key = (cls, str(info.cls))
        if key in found:
            return
        found[key] = None
        found[cls] = None
        for field in info.fields:
            _walk(field.type, found)
        return
    for attribute in ("types", "item_types"):
        for inner in getattr(info, attribute, ()):
            _walk(inner, found)
    for attribute in ("type", "item_type", "key_type", "value_type"):
        inner = getattr(info, attribute, None)
        if isinstance(inner, msgspec.inspect.Type):
            _walk(inner, found)


def _short(name: str) -> str:
    """Turn msgspec's `Page_VmOut_` into `PageVmOut`, and `nacre.model.images.Role` into `ImagesRole`."""
    module, _, last = name.rpartition(".")
    return module.rpartition(".")[2].capitalize() + last.replace("_", "")


def _renamed(schema: Any, names: dict[str, str]) -> Any:
    """Return a schema whose references use other names."""
    if isinstance(schema, dict):
        found = cast("Schema", schema)
        return {
            key: names.get(value, value) if key == "$ref" else _renamed(value, names) for key, value in found.items()
        }
    return [_renamed(part, names) for part in cast("list[Any]", schema)] if isinstance(schema, list) else schema

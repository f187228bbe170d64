"""How a machine's configuration is made of layers, and how two differ. Pure. Used wherever machines are made or shown.

What a request gives goes before what its instance type gives, that before the template, that before the image's
defaults, and those before Nacre's. Nothing here names a field of a configuration: every field of `VmConfig` takes part.
A value is taken whole from the first layer that gives it, whatever it is made of; only of maps, such as labels, each
key is taken by itself.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.images import ImageDefaults
from nacre.model.metadata import check_name
from nacre.model.templates import Layer
from nacre.model.vms import VmSpec
from nacre.schema.templates import Difference
from nacre.schema.vms import VmConfig

NUMBER = "{n}"
COMPUTED = frozenset({"image"})
"""Fields of a spec that are not taken over as they were given."""


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A configuration made of several, and which of them gave each part: by field, of maps by `field.key`."""

    config: VmConfig
    layers: Mapping[str, Layer]


def fields() -> tuple[str, ...]:
    """Names of all fields of a configuration."""
    return VmConfig.__struct_fields__


def given(config: VmConfig) -> dict[str, Any]:
    """Return the fields that a configuration gives. What has the value that stands for nothing is not given."""
    found = {field.name: getattr(config, field.name) for field in msgspec.structs.fields(VmConfig)}
    return {name: value for name, value in found.items() if value != _nothing()[name]}


def config_of(values: Mapping[str, Any]) -> VmConfig:
    """Return a configuration that gives these fields."""
    return VmConfig(**values)


def only_config(body: VmConfig) -> VmConfig:
    """Return the configuration in a body that says more than that."""
    return config_of(given(body))


def merge(layers: Sequence[tuple[Layer, VmConfig]]) -> Merged:
    """Return what several layers say together; the first that gives something wins."""
    values: dict[str, Any] = {}
    said_by: dict[str, Layer] = {}
    for layer, config in layers:
        for name, value in given(config).items():
            if isinstance(value, dict):
                before = values.setdefault(name, {})
                for key, inner in cast("dict[str, Any]", value).items():
                    if key not in before:
                        before[key] = inner
                        said_by[f"{name}.{key}"] = layer
            elif name not in values:
                values[name] = value
                said_by[name] = layer
    return Merged(config=config_of(values), layers=said_by)


def with_image(merged: Merged, defaults: ImageDefaults) -> Merged:
    """Return the same with an image's defaults as a further layer."""
    known = {name: value for name, value in msgspec.structs.asdict(defaults).items() if value is not None}
    below = merge([(Layer.REQUEST, merged.config), (Layer.IMAGE, config_of(known))])
    return Merged(config=below.config, layers={**below.layers, **merged.layers})


def into_spec(config: VmConfig, **computed: Any) -> VmSpec:
    """Return the spec that a configuration gives; what it does not give is Nacre's default."""
    taken = {name: value for name, value in given(config).items() if name in VmSpec.__struct_fields__}
    return VmSpec(**{name: value for name, value in taken.items() if name not in COMPUTED}, **computed)


def changed(config: VmConfig, changes: VmConfig | None, clear: Sequence[str]) -> VmConfig:
    """Return a configuration after some fields were given anew and some not any more. Raises InvalidInputError."""
    new = {} if changes is None else given(changes)
    for index, name in enumerate(clear):
        if name not in fields():
            raise InvalidInputError(
                "unknown_field",
                f"a configuration has no field {name[:80]!r}",
                hint=f"its fields are: {', '.join(fields())}",
                field=f"clear[{index}]",
            )
        if name in new:
            raise InvalidInputError(
                "cleared_and_given", f"{name} is given and cleared", hint="do one of them", field=f"clear[{index}]"
            )
    return config_of({name: value for name, value in (given(config) | new).items() if name not in clear})


def without(config: VmConfig, hidden: frozenset[str]) -> tuple[VmConfig, tuple[str, ...]]:
    """Return a configuration without some fields, and which of these it had given."""
    values = given(config)
    shown = {name: value for name, value in values.items() if name not in hidden}
    return config_of(shown), tuple(name for name in values if name in hidden)


def differences(left: Mapping[str, Any], right: Mapping[str, Any], hidden: frozenset[str]) -> tuple[Difference, ...]:
    """Return where two configurations differ, each by the path of the field; what is on one side only is null there.

    Of `hidden` fields it says only that they do.
    """
    found: list[Difference] = []
    for name in dict.fromkeys([*left, *right]):
        if name in hidden:
            if left.get(name) != right.get(name):
                found.append(Difference(path=name, left=None, right=None, hidden=True))
            continue
        one, two = (dict(leaves(name, side.get(name))) for side in (left, right))
        if not one and not two and (left.get(name) == ()) != (right.get(name) == ()):
            # To give none of something is not the same as to say nothing of it.
            found.append(Difference(path=name, left=left.get(name), right=right.get(name)))
        found += [
            Difference(path=path, left=one.get(path), right=two.get(path))
            for path in dict.fromkeys([*one, *two])
            if one.get(path) != two.get(path)
        ]
    return tuple(found)


def leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Take a value apart: `placement` with zones into `placement.zones[0]` and so on. Nothing is not told."""
    plain: Any = msgspec.to_builtins(value)
    if isinstance(plain, dict) and plain:
        for key, inner in cast("dict[str, Any]", plain).items():
            yield from leaves(f"{path}.{key}", inner)
    elif isinstance(plain, list | tuple) and plain:
        for index, inner in enumerate(cast("Sequence[Any]", plain)):
            yield from leaves(f"{path}[{index}]", inner)
    elif plain is not None and not isinstance(plain, dict | list | tuple):
        yield path, plain


def names_of(pattern: str, count: int, first: int = 1) -> list[str]:
    """Return the names of `count` machines: `web-{n}` counted up, and `web` as if it were that. Raises."""
    if NUMBER not in pattern and count == 1:
        return [check_name(pattern)]
    if NUMBER not in pattern:
        pattern = f"{pattern}-{NUMBER}"
    if re.search(r"[{}]", pattern.replace(NUMBER, "", 1)):
        raise InvalidInputError(
            "invalid_name_pattern",
            f"{pattern[:80]!r} is not a pattern of names",
            hint=f"write {NUMBER} once, where the number goes: web-{NUMBER}",
            field="name",
        )
    names = [pattern.replace(NUMBER, str(number)) for number in range(first, first + count)]
    for name in (names[0], names[-1]):  # the shortest and the longest
        check_name(name)
    return names


def _nothing() -> dict[str, Any]:
    """The value of each field that stands for nothing."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(VmConfig):
        if field.default is not msgspec.NODEFAULT:
            values[field.name] = field.default
        else:
            factory = field.default_factory
            values[field.name] = factory() if callable(factory) else None
    return values

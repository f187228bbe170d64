"""How QEMU is told things: options as words of a command line, or the same as QMP takes them. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

Value = str | int | bool | Sequence["Value"] | Mapping[str, "Value"]
Props = Mapping[str, Value]
"""Properties of a device, block node, object or network backend, as QMP takes them."""


def quoted(value: str) -> str:
    """Double the commas of a value: a single one would end it."""
    return value.replace(",", ",,")


def listening(name: str, path: Path) -> str:
    """Return the words of a character device that listens on a unix socket."""
    return f"socket,id={name},path={quoted(str(path))},server=on,wait=off"


def joined(first: str, props: Props) -> str:
    """Return `first,key=value,…`. Lists repeat their key; on and off stand for true and false."""
    return ",".join([first, *(f"{key}={text}" for key, value in props.items() for text in _texts(value))])


def device(props: Props) -> list[str]:
    """Return the words of a device whose properties are as in `device_add`."""
    rest = {key: value for key, value in props.items() if key != "driver"}
    return ["-device", joined(str(props["driver"]), rest)]


def netdev(props: Props) -> list[str]:
    """Return the words of a network backend whose properties are as in `netdev_add`."""
    rest = {key: value for key, value in props.items() if key != "type"}
    return ["-netdev", joined(str(props["type"]), rest)]


def blockdev(props: Props) -> list[str]:
    """Return the words of a block node. As JSON, because file names may hold anything."""
    return ["-blockdev", json.dumps(props)]


def instance(props: Props) -> list[str]:
    """Return the words of an object whose properties are as in `object-add`."""
    return ["-object", json.dumps(props)]


def _texts(value: Value) -> Iterator[str]:
    match value:
        case bool():
            yield "on" if value else "off"
        case str() | int():
            yield quoted(str(value))
        case Mapping():  # a list of strings is a list of {"str": …} to QMP
            yield from (text for part in value.values() for text in _texts(part))
        case _:
            yield from (text for part in value for text in _texts(part))

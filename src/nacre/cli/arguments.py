"""Arguments as people write them, turned into what the API takes. Pure; raises InvalidInputError with a hint."""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.ids import looks_like_id
from nacre.model.metadata import check_labels, check_name
from nacre.model.placement import Taint, TaintEffect
from nacre.model.templates import split_revision
from nacre.model.units import MIB, format_size, parse_duration, parse_size
from nacre.model.vms import MAX_DISK, MAX_MEMORY, MIN_DISK, MIN_MEMORY, PublishedPort, TransportProtocol
from nacre.schema.moves import MAX_PARALLEL
from nacre.schema.vms import MAX_COUNT, MAX_FIRST_NUMBER

MAX_CPUS = 256
SECTOR = 512
STDIN = "-"
_PUBLISH = re.compile(
    r"^(?:(?P<address>\[[^\]]*\]|[^:\[\]]*):)?(?P<host>[^:]+):(?P<guest>[^:/]+)(?:/(?P<protocol>.*))?$"
)


def ref(text: str, noun: str) -> str:
    """Return a name or id of an object that exists."""
    if looks_like_id(text):
        return text
    try:
        return check_name(text, field=noun)
    except InvalidInputError as error:
        raise InvalidInputError(
            error.code, f"{text!r} is neither a name nor an id of a {noun}", hint=error.hint, field=noun
        ) from error


def revision_ref(text: str) -> str:
    """Return a template, or a revision of one: `web@3`."""
    name, revision = split_revision(text)
    named = ref(name, "template")
    return named if revision is None else f"{named}@{revision}"


def refs(texts: Sequence[str], noun: str) -> list[str]:
    """Return names or ids, each once, in order."""
    if not texts:
        raise InvalidInputError("nothing_named", f"no {noun} is named", hint="give one or more names or ids")
    return list(dict.fromkeys(ref(text, noun) for text in texts))


def labels(texts: Sequence[str]) -> dict[str, str]:
    """Return labels given as `key=value`."""
    return check_labels(dict(_pair(text, "label") for text in texts))


def changed_labels(current: Mapping[str, str], texts: Sequence[str]) -> dict[str, str]:
    """Return labels after `key=value` has set and `key-` has removed some."""
    result = dict(current)
    for text in texts:
        if "=" not in text and text.endswith("-"):
            result.pop(text[:-1], None)
        else:
            key, value = _pair(text, "label")
            result[key] = value
    return check_labels(result)


def filters(texts: Sequence[str]) -> dict[str, str]:
    """Return filters given as `field=value`. Which fields there are, the server knows."""
    return dict(_pair(text, "filter") for text in texts)


def labels_like(texts: Sequence[str], field: str) -> dict[str, str]:
    """Return pairs given as `key=value`; what keys and values may be, the server knows."""
    return dict(_pair(text, field) for text in texts)


def cpus(number: int | None) -> int | None:
    """Return a number of virtual CPUs that a machine can have."""
    if number is not None and not 1 <= number <= MAX_CPUS:
        raise InvalidInputError(
            "invalid_cpus", f"{number} CPUs are not possible", hint=f"use 1 to {MAX_CPUS}", field="cpus"
        )
    return number


def memory(text: str | None) -> int | None:
    """Return bytes of memory: whole MiB within the limits."""
    return None if text is None else _size(text, "memory", MIN_MEMORY, MAX_MEMORY, MIB)


def disk(text: str | None) -> int | None:
    """Return bytes of disk: whole sectors within the limits."""
    return None if text is None else _size(text, "disk", MIN_DISK, MAX_DISK, SECTOR)


def volume_size(text: str | None) -> int | None:
    """Return the size of a volume in bytes. Raises InvalidInputError."""
    return None if text is None else _size(text, "size", MIN_DISK, MAX_DISK, 512)


def rate(text: str | None, field: str) -> int | None:
    """Return bytes per second."""
    return None if text is None else _size(text, field, 1 << 10, 1 << 50, 1)


def duration(text: str, field: str) -> float:
    """Return seconds."""
    if text.startswith("-"):
        raise InvalidInputError(
            "invalid_duration", f"{text!r} is negative", hint="write a length of time such as 30s or 5m", field=field
        )
    return parse_duration(text, field=field)


def publish(texts: Sequence[str]) -> tuple[PublishedPort, ...]:
    """Return published ports given as `[ADDRESS:]HOST:GUEST[/udp]`."""
    return tuple(_port(text) for text in texts)


def ports(texts: Sequence[str], *, none: bool) -> tuple[PublishedPort, ...] | None:
    """Return what is said of published ports; null if nothing is. Raises InvalidInputError."""
    if texts and none:
        raise InvalidInputError(
            "said_twice", "--publish and --no-publish do not go together", hint="give one of the two", field="publish"
        )
    return () if none else publish(texts) or None


def finite(number: float | None, field: str) -> float | None:
    """Return a number that is one: neither `nan` nor infinite."""
    if number is not None and not math.isfinite(number):
        raise InvalidInputError(
            f"invalid_{field}", f"{number} is not a number", hint="write one such as 1.5", field=field
        )
    return number


def _port(text: str) -> PublishedPort:
    match = _PUBLISH.match(text)
    if match is None:
        raise _bad_port(text, "it has not the form [ADDRESS:]HOST:GUEST[/udp]")
    address = (match["address"] or "127.0.0.1").removeprefix("[").removesuffix("]")
    if ":" in address and not (match["address"] or "").startswith("["):
        raise _bad_port(text, "an IPv6 address needs brackets")
    try:
        ip_address(address)
    except ValueError as error:
        raise _bad_port(text, f"{address!r} is not an IP address") from error
    protocol = match["protocol"] if match["protocol"] is not None else "tcp"
    if protocol not in set(TransportProtocol):
        raise _bad_port(text, f"{protocol!r} is not a protocol")
    return PublishedPort(
        host_address=address,
        host_port=_port_number(match["host"], text),
        guest_port=_port_number(match["guest"], text),
        protocol=TransportProtocol(protocol),
    )


def _port_number(text: str, whole: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise _bad_port(whole, f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _bad_port(text: str, why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_publish",
        f"cannot publish {text!r}: {why}",
        hint="write 8080:80, 127.0.0.1:8080:80 or 5353:53/udp",
        field="publish",
    )


def _size(text: str, field: str, least: int, most: int, step: int) -> int:
    if text.strip().startswith("-"):
        raise InvalidInputError(
            "invalid_size", f"{text!r} is negative", hint="write a size such as 512MiB or 10GiB", field=field
        )
    size = parse_size(text, field=field)
    if not least <= size <= most:
        raise InvalidInputError(
            "invalid_size",
            f"{text} is not a possible {field}" if field == "size" else f"{text} is not a possible {field} size",
            hint=f"use {format_size(least)} to {format_size(most)}",
            field=field,
        )
    if size % step:
        raise InvalidInputError(
            "invalid_size",
            f"{text} of {field} is not a multiple of {format_size(step)}",
            hint=f"{format_size(size // MIB * MIB)} or {format_size((size // MIB + 1) * MIB)} would do",
            field=field,
        )
    return size


def _pair(text: str, field: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInputError(
            f"invalid_{field}", f"{text!r} is not a {field}", hint=f"write --{field} key=value", field=field
        )
    return key, value


def text_of(name: str, field: str) -> str:
    """Return what is in a text file, or comes by stdin. Raises InvalidInputError."""
    try:
        return sys.stdin.read() if name == STDIN else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise InvalidInputError(
            "unreadable_file", f"cannot read {name}: {reason}", hint="give the path of a text file", field=field
        ) from error


def new_name(text: str) -> str:
    """Return a name that a new object can have."""
    return check_name(text)


def name_pattern(text: str) -> str:
    """Return a name that a new object can have, or a pattern of such: `web-{n}`."""
    check_name(text.replace("{n}", "1", 1))
    return text


def count(number: int) -> int:
    """Return how many machines are to be created at once."""
    check_range(number, "count", least=1, most=MAX_COUNT)
    return number


def first_number(number: int) -> int:
    """Return the number in the name of the first of many."""
    check_range(number, "first_number", least=0, most=MAX_FIRST_NUMBER)
    return number


def limit(number: int | None) -> int | None:
    """Return how many items are wanted."""
    if number is not None and number < 1:
        raise InvalidInputError("invalid_limit", f"{number} items make no list", hint="use 1 or more", field="limit")
    return number


def check_changes(changes: msgspec.Struct) -> None:
    """Raise InvalidInputError if nothing would be changed."""
    if all(value is None for value in msgspec.structs.astuple(changes)):
        nothing_to_change()


def nothing_to_change() -> NoReturn:
    """Raise InvalidInputError for a change without a change."""
    raise InvalidInputError("nothing_to_change", "nothing to change", hint="give at least one option; see --help")


def lifetime(text: str, *, least: int, most: int) -> int:
    """Return whole seconds for how long something is good."""
    seconds = int(duration(text, "ttl"))
    if not least <= seconds <= most:
        raise InvalidInputError(
            "invalid_duration",
            f"{text} is not a possible lifetime",
            hint=f"use {least} s to {most // 86400} days",
            field="ttl",
        )
    return seconds


def some(texts: Sequence[str], noun: str) -> list[str]:
    """Return words, each once, in order."""
    if not texts:
        raise InvalidInputError("nothing_named", f"no {noun} is named", hint="give one or more; see --help")
    return list(dict.fromkeys(texts))


def taint(text: str) -> Taint:
    """Return a taint given as `key[=value]:effect`."""
    named, colon, effect = text.rpartition(":")
    key, _, value = named.partition("=")
    if not colon or not key or effect not in set(TaintEffect):
        raise InvalidInputError(
            "invalid_taint",
            f"{text!r} is not a taint",
            hint=f"write key:effect or key=value:effect; effects are {', '.join(TaintEffect)}",
            field="taint",
        )
    return Taint(key=key, value=value, effect=TaintEffect(effect))


def names_taint(text: str, taint: Taint) -> bool:
    """Whether `text` means this taint: its key, key and effect, or all of it."""
    return text in {taint.key, f"{taint.key}:{taint.effect}", str(taint)}


def parallel(number: int) -> int:
    """Return how many machines may be on their way at once."""
    check_range(number, "parallel", least=1, most=MAX_PARALLEL)
    return number


def check_range(number: float, field: str, *, least: float, most: float) -> None:
    """Raise InvalidInputError for a number that is not possible."""
    if not least <= number <= most:
        raise InvalidInputError(
            f"invalid_{field}", f"{number:g} is not a possible {field}", hint=f"use {least:g} to {most:g}", field=field
        )

"""Settings of a program from TOML files, then the environment, then flags, converted into its settings struct.

Used by the `settings` modules, which say what there is to set. Unknown keys are an error, so a typing mistake is not a
silent default. Reads files and nothing else.
"""

import tomllib
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nacre.errors import InvalidInputError

LOG_LEVELS = ("debug", "info", "warning", "error")

SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)

Parse = Callable[[str, str], object]
"""Turns the text of a flag or variable, given its name, into what a file would hold."""


def load(
    kind: type[SettingsT],
    *,
    files: Iterable[Path],
    environment: Mapping[str, str],
    prefix: str,
    flags: Mapping[str, str],
    parse: Parse,
    example: str,
) -> SettingsT:
    """Return settings: later files win over earlier ones, `prefix`ed variables over files, flags over all.

    `example` is a line that such a file may have. Raises InvalidInputError.
    """
    values: dict[str, Any] = {}
    for file in files:
        values |= _read(file, example)
    for name, text in (_from_environment(environment, prefix) | dict(flags)).items():
        values[name] = parse(name, text)
    for name in values:
        _check_known(name, kind.__struct_fields__)
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            "invalid_setting", str(error), hint="see the configuration reference for names and types"
        ) from error


def listed(text: str) -> list[str]:
    """Return what `a, b` means for a setting that is a list."""
    return [part.strip() for part in text.split(",") if part.strip()]


def split_address(address: str, *, field: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises InvalidInputError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInputError(
            "invalid_address",
            f"{address!r} is not an address to listen on",
            hint="write host:port, such as 127.0.0.1:7480 or [::1]:7480",
            field=field,
        )
    return host, int(port)


def check_log_level(level: str) -> None:
    """Raise InvalidInputError unless this is a log level."""
    if level not in LOG_LEVELS:
        raise InvalidInputError(
            "invalid_log_level",
            f"{level!r} is not a log level",
            hint="use debug, info, warning or error",
            field="log_level",
        )


def _read(path: Path, example: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInputError(
            "unreadable_settings", f"{path}: {error.strerror}", hint="give an existing file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            "unreadable_settings", f"{path} is not TOML: {error}", hint=f"write lines such as {example}"
        ) from error


def _from_environment(environment: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix).lower(): value for name, value in environment.items() if name.startswith(prefix)}


def _check_known(name: str, known: tuple[str, ...]) -> None:
    if name in known:
        return
    near = get_close_matches(name, known, n=1)
    raise InvalidInputError(
        "unknown_setting",
        f"there is no setting {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"settings are: {', '.join(known)}",
        field=name,
    )

"""Sizes and durations as people write them. Used by the CLI and in configuration; the API takes plain numbers.

Binary units (KiB, MiB, GiB, TiB) and decimal ones (kB, MB, GB, TB) are both accepted and never mixed up;
a bare number is refused because nobody can say what it meant.
"""

import re

from nacre.errors import InvalidInputError

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40

_SIZES = {
    "B": 1,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
}
_DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = re.compile(r"^(\d+(?:\.\d+)?)\s*([A-Za-z]*)$")


def parse_size(text: str, *, field: str | None = None) -> int:
    """Return bytes for text such as `512MiB` or `1.5GiB`. Raises InvalidInputError."""
    match = _NUMBER.fullmatch(text.strip())
    factor = _SIZES.get(match.group(2)) if match else None
    if match is None or factor is None:
        raise InvalidInputError(
            "invalid_size",
            f"{text!r} is not a size",
            hint="write a number and a unit: 512MiB, 10GiB (powers of 1024) or 512MB, 10GB (powers of 1000)",
            field=field,
        )
    size = float(match.group(1)) * factor
    if size != int(size):
        raise InvalidInputError(
            "invalid_size", f"{text!r} is not a whole number of bytes", hint="use a smaller unit", field=field
        )
    return int(size)


def format_size(size: int) -> str:
    """Return the shortest exact-enough binary form: 536870912 is `512MiB`."""
    for unit, factor in (("TiB", TIB), ("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if size >= factor:
            return f"{size / factor:.1f}".removesuffix(".0") + unit
    return f"{size}B"


def parse_duration(text: str, *, field: str | None = None) -> float:
    """Return seconds for text such as `30s`, `15m`, `24h` or `90d`. Raises InvalidInputError."""
    match = _NUMBER.fullmatch(text.strip())
    factor = _DURATIONS.get(match.group(2)) if match else None
    if match is None or factor is None:
        raise InvalidInputError(
            "invalid_duration",
            f"{text!r} is not a duration",
            hint="write a number and a unit: 30s, 15m, 24h or 90d",
            field=field,
        )
    return float(match.group(1)) * factor

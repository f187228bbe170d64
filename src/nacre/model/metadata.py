"""What every noun has: a name and labels. The rules for both, in one place."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from nacre.errors import InvalidInputError
from nacre.model.ids import looks_like_id

NO_LABELS: Mapping[str, str] = MappingProxyType({})
MAX_LABELS = 64

_NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_LABEL_KEY = re.compile(r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?$")


def check_name(name: str, *, field: str = "name") -> str:
    """Return `name` if it is a DNS label (RFC 1123, at most 63 characters) that is not an id."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "invalid_name",
            f"{name!r} is not a valid name",
            hint="use 1 to 63 lower-case letters, digits and hyphens, not starting or ending with a hyphen",
            field=field,
        )
    if looks_like_id(name):
        raise InvalidInputError("invalid_name", f"{name!r} looks like an id", hint="choose another name", field=field)
    return name


def check_labels(labels: Mapping[str, str], *, field: str = "labels") -> dict[str, str]:
    """Return `labels` if keys and values have the form that Kubernetes made common. Raises InvalidInputError."""
    if len(labels) > MAX_LABELS:
        raise InvalidInputError(
            "too_many_labels", f"{len(labels)} labels, at most {MAX_LABELS}", hint="remove some", field=field
        )
    for key, value in labels.items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            raise InvalidInputError(
                "invalid_label",
                f"{key}={value} is not a valid label",
                hint="keys and values: at most 63 letters, digits, '-', '_' and '.', alphanumeric at both ends; "
                "a key may have a DNS prefix and a slash; a value may be empty",
                field=field,
            )
    return dict(labels)

"""Templates and instance types: where the configuration of a machine comes from. Used by every layer. Pure."""

from enum import StrEnum

import msgspec

from nacre.errors import InvalidInputError


class Layer(StrEnum):
    """Who said what a field of a machine is, in the order in which they are asked."""

    REQUEST = "request"  # given with the machine itself
    INSTANCE_TYPE = "instance-type"
    TEMPLATE = "template"
    CHECKPOINT = "checkpoint"  # the machine whose checkpoint it is made from, as that was then
    IMAGE = "image"  # the defaults of the image that it boots from
    DEFAULT = "default"  # Nacre's own


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """A template or an instance type as it was when a machine was made from it."""

    id: str
    """Its id; it may be gone by now."""
    name: str
    """Its name, as it was then."""
    revision: int
    """Its revision, as it was then."""

    def __str__(self) -> str:
        return f"{self.name} revision {self.revision}"


class Origins(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine was made from."""

    template: Origin | None = None
    instance_type: Origin | None = None


def split_revision(ref: str) -> tuple[str, int | None]:
    """Take `name@3` apart: what is named, and the revision if one is. Raises InvalidInputError."""
    name, at, number = ref.partition("@")
    if not at:
        return ref, None
    if not (number.isascii() and number.isdigit() and len(number) < 10 and int(number) >= 1):
        raise InvalidInputError(
            "invalid_revision",
            f"{ref[:80]!r} names no revision",
            hint="write the template alone for its newest revision, or as name@3",
            field="template",
        )
    return name, int(number)

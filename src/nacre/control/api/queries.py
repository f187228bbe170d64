"""Query parameters as structs: declared once per route, parsed strictly, shown in the OpenAPI document.

Called for every request before its handler. An unknown parameter is an error with a hint, as in bodies.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec

from nacre.control.api import wrong_values
from nacre.control.services.listing import ListQuery
from nacre.errors import InvalidInputError
from nacre.schema.common import DEFAULT_PAGE, MAX_PAGE

MAX_WAIT_S = 300
ALL_PROJECTS = "*"
DEFAULT_PROJECT = "default"
ProjectName = Annotated[str, msgspec.Meta(min_length=1)]
P = TypeVar("P", bound="Params")


class Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all query parameters; by itself, none."""


class InProject(Params, frozen=True, kw_only=True):
    """Where a name is looked for."""

    project: ProjectName = DEFAULT_PROJECT
    """Name or id of the project that a name is looked for in. Not needed with an id."""


class Waiting(Params, frozen=True, kw_only=True):
    """How long the answer to a change may be held."""

    wait: Annotated[float, msgspec.Meta(ge=0, le=MAX_WAIT_S)] = 0
    """Hold the answer until the change has converged, at most this many seconds; then 202 says it still runs."""


class WaitingInProject(Waiting, frozen=True, kw_only=True):
    """A change of something that may be given by name."""

    project: ProjectName = DEFAULT_PROJECT
    """Name or id of the project that a name is looked for in. Not needed with an id."""


class Paged(Params, frozen=True, kw_only=True):
    """One part of a list."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE
    """How many items at most."""
    cursor: str | None = None
    """`next` of the part before."""
    sort: str | None = None
    """Field to sort by, with a leading `-` for the largest first."""

    def filters(self) -> dict[str, str]:
        """Return the field filters that were given: everything that a subclass adds."""
        own = [name for name in self.__struct_fields__ if name not in _NOT_FILTERS]
        return {name: str(value) for name in own if (value := getattr(self, name)) is not None}


class Labelled(Paged, frozen=True, kw_only=True):
    """A list of things that have labels."""

    label: tuple[str, ...] = ()
    """`key=value` that an item must have; may be repeated."""


class LabelledInProject(Labelled, frozen=True, kw_only=True):
    """A list of things that belong to projects."""

    project: ProjectName = DEFAULT_PROJECT
    """Name or id of a project, or `*` for all that the caller may see."""


_NOT_FILTERS = {"limit", "cursor", "sort", "label", "project"}


def list_query(params: Paged) -> ListQuery:
    """Return what the services understand of a list's parameters. Raises InvalidInputError for a bad label."""
    labels = dict(_label(text) for text in getattr(params, "label", ()))
    project = getattr(params, "project", None)
    return ListQuery(
        limit=params.limit,
        cursor=params.cursor,
        labels=labels,
        filters=params.filters(),
        sort=params.sort,
        project=None if project == ALL_PROJECTS else project,
    )


def parse(kind: type[P], pairs: Sequence[tuple[str, str]]) -> P:
    """Return the parameters of a request. Raises InvalidInputError naming the one that is wrong."""
    types = {field.encode_name: without_none(field.type) for field in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for name, text in pairs:
        if name not in types:
            raise _unknown(name, list(types))
        if "\0" in text:
            raise InvalidInputError("nul_character", f"{name} has a NUL", hint="remove it", field=name)
        if get_origin(types[name]) is tuple:
            values.setdefault(name, []).append(text)
        elif name in values:
            raise InvalidInputError(
                "repeated_parameter", f"{name} is given more than once", hint="give it once", field=name
            )
        else:
            values[name] = _convert(name, text, types[name])
    return msgspec.convert(values, kind)


def without_none(annotation: Any) -> Any:
    """Return a type without its `| None`."""
    if get_origin(annotation) in {Union, UnionType}:
        kept = [part for part in get_args(annotation) if part is not type(None)]
        return kept[0] if len(kept) == 1 else Union[tuple(kept)]  # noqa: UP007 - made at run time
    return annotation


def _convert(name: str, text: str, kind: Any) -> object:
    try:
        return msgspec.convert(text, kind, strict=False)
    except msgspec.ValidationError as error:
        wrong, right = wrong_values.said(str(error), kind)
        raise InvalidInputError(
            "invalid_parameter",
            f"{name}={text[:80]}: {wrong}",
            hint=right or "see the parameter in /openapi.yaml",
            field=name,
        ) from error


def _unknown(name: str, known: list[str]) -> InvalidInputError:
    near = get_close_matches(name, known, n=1)
    if near:
        hint = f"did you mean {near[0]}?"
    else:
        hint = f"this route takes: {', '.join(known)}" if known else "this route takes no query parameters"
    return InvalidInputError(
        "unknown_parameter", f"there is no query parameter {name[:80]!r} here", hint=hint, field=name[:80]
    )


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise InvalidInputError(
            "invalid_label_filter", f"label={text[:80]} is not a filter", hint="write label=key=value", field="label"
        )
    return key, value

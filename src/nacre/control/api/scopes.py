"""What this API keeps in the scope of a connection: the names, and a way around the scope's closed type."""

from collections.abc import Mapping, MutableMapping
from typing import cast

from litestar.types import Scope

REQUEST_ID = "nacre.request_id"
PARAMS = "nacre.params"
CALL = "nacre.call"
OPENED = "nacre.opened"


def put(scope: Scope, name: str, value: object) -> None:
    """Keep `value` for whoever handles the connection next."""
    cast("MutableMapping[str, object]", scope)[name] = value


def take(scope: Scope, name: str) -> object | None:
    """Return what is kept, if anything."""
    return cast("Mapping[str, object]", scope).get(name)

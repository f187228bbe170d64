"""What a list is asked for. The words are those of `store.listing`; here is what callers outside of SQL need."""

from nacre.control.store.listing import ListQuery
from nacre.errors import InvalidInputError
from nacre.schema.common import DEFAULT_PAGE, MAX_PAGE


def query(
    *,
    limit: int | None = None,
    cursor: str | None = None,
    labels: dict[str, str] | None = None,
    filters: dict[str, str] | None = None,
    sort: str | None = None,
    project: str | None = None,
) -> ListQuery:
    """Return a checked ListQuery. Raises InvalidInputError."""
    if limit is not None and not 1 <= limit <= MAX_PAGE:
        raise InvalidInputError("invalid_limit", f"a page of {limit}", hint=f"ask for 1 to {MAX_PAGE}", field="limit")
    return ListQuery(
        limit=limit or DEFAULT_PAGE,
        cursor=cursor or None,
        labels=labels or {},
        filters=filters or {},
        sort=sort or None,
        project=project or None,
    )


__all__ = ["ListQuery", "query"]

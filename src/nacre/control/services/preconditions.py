"""If-Match: whether what is about to be changed is what the caller has seen. Used by every update and delete. Pure."""

from nacre.errors import PreconditionError


def etag_of(version: int) -> str:
    """Return the strong entity tag of the `version`-th state of an object."""
    return f'"{version}"'


def require_match(if_match: str | None, etag: str) -> None:
    """Raise PreconditionError unless `if_match` is None, `*`, or names `etag` (RFC 9110, section 13.1.1)."""
    if if_match is None or if_match.strip() == "*" or etag in {tag.strip() for tag in if_match.split(",")}:
        return
    raise PreconditionError(
        "etag_mismatch", "the object has changed since it was read", hint="read it again and repeat the change"
    )

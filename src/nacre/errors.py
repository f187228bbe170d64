"""Every error that Nacre raises on purpose.

Raised by all layers, turned into HTTP in `control/api/problems.py` and into a line on the terminal in `cli`.
An error here never carries a secret or a path of the host.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What sort of no this is. Decides the HTTP status and the exit code, nothing else."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    PRECONDITION = "precondition"
    TOO_LARGE = "too_large"
    EXHAUSTED = "exhausted"
    UNSUPPORTED = "unsupported"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    INTERNAL = "internal"


class NacreError(Exception):
    """An expected failure with words for the person who meets it.

    `code` is stable (programs branch on it), `message` says what is wrong, `hint` says what to do about it,
    `field` names the offending input as a dotted path (`publish[0].host_port`) where there is one.
    """

    kind: Kind = Kind.INTERNAL
    retryable: bool = False

    def __init__(self, code: str, message: str, *, hint: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.field = field


class InvalidInputError(NacreError):
    """The request itself is wrong; the same request will never work."""

    kind = Kind.INVALID


class UnauthenticatedError(NacreError):
    """No credential, or one that is unknown, expired or revoked."""

    kind = Kind.UNAUTHENTICATED


class ForbiddenError(NacreError):
    """The caller may see the object but not do this to it."""

    kind = Kind.FORBIDDEN


class NotFoundError(NacreError):
    """There is no such object, or none that the caller may know of."""

    kind = Kind.NOT_FOUND


class ConflictError(NacreError):
    """Something that must be unique or exclusive is held by another object, which the message names."""

    kind = Kind.CONFLICT


class PreconditionError(NacreError):
    """If-Match does not match: the object changed since it was read."""

    kind = Kind.PRECONDITION


class TooLargeError(NacreError):
    """More bytes than the limit that the message states."""

    kind = Kind.TOO_LARGE


class ExhaustedError(NacreError):
    """A finite resource (disk, ports, node capacity) has run out."""

    kind = Kind.EXHAUSTED
    retryable = True


class UnsupportedError(NacreError):
    """Nothing here can do what was asked; the hint says what could."""

    kind = Kind.UNSUPPORTED


class UnavailableError(NacreError):
    """A part that is needed does not answer now; trying later is right."""

    kind = Kind.UNAVAILABLE
    retryable = True


class TimeoutExpiredError(NacreError):
    """A wait ended before what it waited for. Says nothing about whether it will still happen."""

    kind = Kind.TIMEOUT
    retryable = True

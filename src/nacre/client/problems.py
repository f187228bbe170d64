"""Answers that say no, turned into `NacreError`. Called by the transport, the uploads and the console. Pure."""

import msgspec

from nacre.errors import (
    ConflictError,
    ExhaustedError,
    ForbiddenError,
    InvalidInputError,
    NacreError,
    NotFoundError,
    PreconditionError,
    TimeoutExpiredError,
    TooLargeError,
    UnauthenticatedError,
    UnavailableError,
    UnsupportedError,
)
from nacre.schema.common import Problem

_BY_STATUS: dict[int, type[NacreError]] = {
    400: InvalidInputError,
    401: UnauthenticatedError,
    403: ForbiddenError,
    404: NotFoundError,
    405: UnsupportedError,
    408: TimeoutExpiredError,
    409: ConflictError,
    412: PreconditionError,
    413: TooLargeError,
    415: InvalidInputError,
    416: ConflictError,
    422: UnsupportedError,
    428: PreconditionError,
    429: ExhaustedError,
    501: UnsupportedError,
    502: UnavailableError,
    503: UnavailableError,
    504: TimeoutExpiredError,
    507: ExhaustedError,
}


def from_answer(status: int, body: bytes, *, url: str) -> NacreError:
    """Return the error that an answer with this status and body stands for. Never raises."""
    kind = _BY_STATUS.get(status, NacreError)
    try:
        problem = msgspec.json.decode(body, type=Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _stranger(status, kind, url)
    hint = problem.hint
    if kind is NacreError and problem.request_id:
        hint = (
            f"{hint} (request {problem.request_id})" if hint else f"look for request {problem.request_id} in the logs"
        )
    error = kind(problem.code, problem.detail or problem.title, hint=hint, field=problem.field)
    error.retryable = problem.retryable
    return error


def _stranger(status: int, kind: type[NacreError], url: str) -> NacreError:
    """The error for an answer that is not a problem document: a proxy, or something that is not Nacre."""
    if status in {502, 503, 504}:
        return UnavailableError(
            "server_unavailable",
            f"{url} answered {status}",
            hint="something between here and the control plane could not reach it; try again in a moment",
        )
    return kind("unexpected_answer", f"{url} answered {status} in a form that Nacre does not use", hint="check the URL")


def undecodable(url: str, cause: Exception) -> NacreError:
    """Return the error for a good status with a body that is not what the API promises."""
    return NacreError(
        "unexpected_answer",
        f"the answer of {url} is not what this version understands: {cause}",
        hint="check that the URL is a Nacre control plane and that client and server are of similar version",
    )


def unreachable(url: str, cause: Exception | str) -> UnavailableError:
    """Return the error for a server that cannot be talked to."""
    reason = str(cause) or type(cause).__name__
    return UnavailableError(
        "unreachable",
        f"cannot reach {url}: {reason}",
        hint="check that the control plane runs and that the address is right (nacre context show)",
    )


def timed_out(what: str, seconds: float) -> TimeoutExpiredError:
    """Return the error for a wait that ended first."""
    return TimeoutExpiredError(
        "wait_expired",
        f"{what} has not finished after {seconds:g} s",
        hint="it may still finish: look again later, or wait longer with --timeout",
    )

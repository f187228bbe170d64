"""Errors as RFC 9457 problem details. The only place that knows which error is which HTTP status.

Called by the exception handlers of the application and by the boundary. Never shows a stack trace or a host's path.
"""

from http import HTTPStatus

import msgspec
import structlog
from litestar.exceptions import HTTPException

from nacre.errors import Kind, NacreError
from nacre.schema.common import Problem

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
NOT_FOUND = 404
METHOD_NOT_ALLOWED = 405
UPGRADE_REQUIRED = 426
INTERNAL = 500
UNAVAILABLE = 503

STATUS: dict[Kind, int] = {
    Kind.INVALID: 400,
    Kind.UNAUTHENTICATED: 401,
    Kind.FORBIDDEN: 403,
    Kind.NOT_FOUND: 404,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION: 412,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED: 422,
    Kind.EXHAUSTED: 507,
    Kind.INTERNAL: 500,
    Kind.UNAVAILABLE: 503,
    Kind.TIMEOUT: 504,
}

MEANING: dict[int, str] = {
    400: "The request itself is wrong; the same request will never work.",
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The caller may see the object but not do this to it.",
    404: "There is no such object, or none that the caller may know of.",
    405: "The path exists, the method does not.",
    409: "Something that must be unique or exclusive is held by another object, or the object's state forbids this.",
    412: "If-Match does not match: the object changed since it was read.",
    413: "More bytes than the limit that the problem states.",
    422: "Nothing here can do what was asked; the hint says what could.",
    426: "This path is a WebSocket.",
    500: "A defect; the request id finds it in the log.",
    503: "A part that is needed does not answer now; trying later is right.",
    504: "What was waited for did not answer in time.",
    507: "A finite resource has run out.",
}

_FROM_FRAMEWORK: dict[int, tuple[str, str, str]] = {
    404: ("no_such_route", "there is nothing at this path", "the paths are listed in /openapi.yaml and at /docs"),
    405: ("method_not_allowed", "this path does not take this method", "the Allow header lists those that it takes"),
    413: ("body_too_large", "the body is larger than this route takes", "send less; image content goes to its upload"),
}


def of_error(error: NacreError, request_id: str) -> Problem:
    """Return the problem that describes an error of ours."""
    return make(
        STATUS[error.kind],
        code=error.code,
        detail=error.message,
        hint=error.hint,
        request_id=request_id,
        field=error.field,
        retryable=error.retryable,
    )


def of_framework(error: HTTPException, request_id: str) -> Problem:
    """Return the problem for what the web framework refused by itself, without its wording."""
    fallback = ("bad_request", "the request could not be understood", "compare it with /openapi.yaml")
    code, detail, hint = _FROM_FRAMEWORK.get(error.status_code, fallback)
    status = error.status_code if error.status_code in MEANING else STATUS[Kind.INVALID]
    return make(status, code=code, detail=detail, hint=hint, request_id=request_id)


def of_defect(request_id: str) -> Problem:
    """Return the problem for an exception nobody expected. Says nothing about it: the log does."""
    return make(
        INTERNAL,
        code="internal_error",
        detail="something went wrong in the control plane",
        hint="try again; if it stays, look for this request id in the log of nacre-control",
        request_id=request_id,
        retryable=True,
    )


def make(
    status: int,
    *,
    code: str,
    detail: str,
    hint: str,
    request_id: str,
    field: str | None = None,
    retryable: bool = False,
) -> Problem:
    """Return a problem."""
    return Problem(
        type=f"urn:nacre:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        hint=hint,
        request_id=request_id,
        field=field,
        retryable=retryable,
    )


def headers(problem: Problem) -> dict[str, str]:
    """Return the headers that belong to a problem's status."""
    if problem.status == STATUS[Kind.UNAUTHENTICATED]:
        return {"WWW-Authenticate": 'Bearer realm="nacre"'}
    if problem.status == STATUS[Kind.UNAVAILABLE]:
        return {"Retry-After": "1"}
    return {}


def encode(problem: Problem) -> bytes:
    """Return the body of a problem."""
    return msgspec.json.encode(problem)

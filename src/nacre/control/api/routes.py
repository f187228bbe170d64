"""The table of contents of the REST API, and how its parts become one ASGI application.

To add a resource: a file of handlers beside this one, its `ROUTES` in the list below, its actions in `auth/actions.py`.
"""

import re
from typing import Any

import structlog
from litestar import Litestar, Request, Response
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.types import ASGIApp, ControllerRouterHandler

from nacre.control.api import (
    capabilities,
    checkpoints,
    commands,
    consoles,
    docs,
    events,
    failover,
    grants,
    guests,
    health,
    images,
    installer,
    instance_types,
    moves,
    nodes,
    operations,
    pools,
    problems,
    projects,
    scheduling,
    templates,
    tokens,
    users,
    vm_volumes,
    vms,
    volumes,
)
from nacre.control.api.access import check_declared, guard, provide_call, provide_params
from nacre.control.api.bodies import MAX_BODY_BYTES, StrictRequest
from nacre.control.api.boundary import Boundary, request_id_of
from nacre.control.api.parts import Parts, parts_of
from nacre.errors import NacreError
from nacre.schema.common import Problem

log = structlog.get_logger()

ROUTES: tuple[ControllerRouterHandler, ...] = (
    *tokens.ROUTES,
    *projects.ROUTES,
    *users.ROUTES,
    *grants.ROUTES,
    *nodes.ROUTES,
    *capabilities.ROUTES,
    *moves.ROUTES,
    *failover.ROUTES,
    *images.ROUTES,
    *vms.ROUTES,
    *templates.ROUTES,
    *instance_types.ROUTES,
    *vm_volumes.ROUTES,
    *checkpoints.ROUTES,
    *pools.ROUTES,
    *volumes.ROUTES,
    *scheduling.ROUTES,
    *consoles.ROUTES,
    *commands.ROUTES,
    *guests.ROUTES,
    *events.ROUTES,
    *operations.ROUTES,
    *health.ROUTES,
    *docs.ROUTES,
    *installer.ROUTES,
)


def build(parts: Parts | None, routes: tuple[ControllerRouterHandler, ...] = ROUTES) -> Litestar:
    """Return the application. Raises UndeclaredRouteError. Without `parts` it can be described but not used."""
    app = Litestar(
        route_handlers=list(routes),
        guards=[guard],
        dependencies={
            "call": Provide(provide_call),
            "params": Provide(provide_params),
        },
        exception_handlers={NacreError: _on_error, HTTPException: _on_framework, Exception: _on_defect},
        request_class=StrictRequest,
        request_max_body_size=MAX_BODY_BYTES,
        state=State({"parts": parts}),
        openapi_config=None,
        logging_config=None,
    )
    check_declared(app)
    return app


def serve(parts: Parts, routes: tuple[ControllerRouterHandler, ...] = ROUTES) -> ASGIApp:
    """Return the application behind its boundary: what the server runs."""
    app = build(parts, routes)
    return Boundary(app, parts.metrics, lambda path: _methods(app, path))


def _on_error(request: Request[Any, Any, Any], error: NacreError) -> Response[bytes]:
    if problems.STATUS[error.kind] >= problems.INTERNAL:
        log.warning("http.refused", code=error.code, message=error.message, cause=repr(error.__cause__))
    return _respond(problems.of_error(error, request_id_of(request.scope)))


def _on_framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    if error.status_code >= problems.INTERNAL:
        return _on_defect(request, error)
    response = _respond(problems.of_framework(error, request_id_of(request.scope)))
    if error.status_code == problems.METHOD_NOT_ALLOWED:
        response.headers["Allow"] = ", ".join(_methods(request.app, request.scope["path"]))
    return response


def _methods(app: Litestar, path: str) -> list[str]:
    """Return the methods that a path takes."""
    exact = [route for route in app.routes if route.path == path]
    pattern = re.compile(r"\{\w+:str\}")
    matching = exact or [route for route in app.routes if re.fullmatch(pattern.sub("[^/]+", route.path), path)]
    methods = {str(method) for route in matching for method in getattr(route, "methods", ())}
    return sorted(methods | ({"HEAD"} if "GET" in methods else set()))


def _on_defect(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    outage = parts_of(request).outage(error)
    if outage is not None:
        outage.__cause__ = error
        return _on_error(request, outage)
    log.error("http.defect", path=request.scope["path"], method=request.method, exc_info=error)
    return _respond(problems.of_defect(request_id_of(request.scope)))


def _respond(problem: Problem) -> Response[bytes]:
    return Response(
        problems.encode(problem),
        status_code=problem.status,
        media_type=problems.MEDIA_TYPE,
        headers=problems.headers(problem),
    )

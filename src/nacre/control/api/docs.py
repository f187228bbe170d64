"""/docs (Swagger UI) and the OpenAPI document. Everything is served from here: it works without a network.

The files of Swagger UI come from the `swagger-ui-py` package; the page and its start-up script are ours.
"""

import asyncio
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from litestar import Request, Response, get
from litestar.params import FromPath

from nacre.control.api.openapi import document, to_yaml
from nacre.control.api.parts import parts_of
from nacre.errors import NotFoundError

_TYPES = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript", "favicon-32x32.png": "image/png"}
_CACHED = {"Cache-Control": "public, max-age=86400"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Nacre API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """\
window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null
});
"""


@get("/docs", opt={"public": True, "documented": False})
async def show_docs() -> Response[str]:
    """Show the API's documentation in a browser."""
    return Response(_PAGE, media_type="text/html", headers={"Content-Security-Policy": _POLICY})


@get("/docs/{file:str}", opt={"public": True, "documented": False})
async def show_file(file: FromPath[str]) -> Response[bytes]:
    """Serve a file of the documentation page."""
    if file == "start.js":
        return Response(_START.encode(), media_type="text/javascript", headers=_CACHED)
    if file not in _TYPES:
        raise NotFoundError("file_not_found", f"there is no {file[:80]!r} here", hint="open /docs")
    content = await asyncio.to_thread((_folder() / file).read_bytes)
    return Response(content, media_type=_TYPES[file], headers=_CACHED)


@get("/openapi.json", opt={"public": True, "documented": False})
async def show_json(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the OpenAPI document as JSON."""
    made = document(request.app, parts_of(request).version)
    return Response(msgspec.json.encode(made), media_type="application/json")


@get("/openapi.yaml", opt={"public": True, "documented": False})
async def show_yaml(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Serve the OpenAPI document as YAML."""
    made = document(request.app, parts_of(request).version)
    return Response(to_yaml(made).encode(), media_type="application/yaml")


@cache
def _folder() -> Path:
    """Where the files are. The package is not imported: it would bring a template engine that nobody here needs."""
    spec = find_spec("swagger_ui")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(next(iter(spec.submodule_search_locations))) / "static"


ROUTES = (show_docs, show_file, show_json, show_yaml)

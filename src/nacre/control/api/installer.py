"""/install.sh and /install/…: what makes a host a node of this cloud, of exactly this version. Public, no secrets.

The wheel is made of the code that this control plane runs, once per process; the script carries its checksum.
"""

import asyncio
import re
from functools import cache
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.params import FromPath

from nacre.control.api.parts import parts_of
from nacre.errors import NotFoundError
from nacre.lib import wheels
from nacre.lib.wheels import Wheel

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])(?::\d{1,5})?", re.ASCII
)
_SCRIPT = "install.sh"


def address_of(request: Request[Any, Any, Any]) -> str:
    """Return where nodes reach this API: what the settings say, else the address that the request came to.

    Goes into a shell script, so a host that is no plain name or address is not repeated.
    """
    settings = parts_of(request).settings
    if settings.api_url:
        return settings.api_url
    host = request.headers.get("host", "")
    scheme = "https" if request.scope["scheme"] == "https" else "http"
    return f"{scheme}://{host}" if _HOST.fullmatch(host) else f"http://{settings.listen}"


@get("/install.sh", opt={"public": True, "documented": False})
async def show_script(request: Request[Any, Any, Any]) -> Response[str]:
    """Serve the script that makes a host a node."""
    wheel = await asyncio.to_thread(_wheel)
    known = {
        "API": address_of(request),
        "VERSION": parts_of(request).version,
        "WHEEL": wheel.file_name,
        "SHA256": wheel.sha256,
    }
    return Response(
        re.sub("@([A-Z0-9]+)@", lambda match: known[match[1]], _template()), media_type="text/x-shellscript"
    )


@get("/install/{file:str}", opt={"public": True, "documented": False})
async def show_wheel(file: FromPath[str]) -> Response[bytes]:
    """Serve this control plane's own code as a wheel."""
    wheel = await asyncio.to_thread(_wheel)
    if file != wheel.file_name:
        raise NotFoundError(
            "file_not_found",
            f"there is no {file[:80]!r} here",
            hint="fetch /install.sh again: the control plane has another version than when that script was made",
        )
    return Response(wheel.content, media_type="application/octet-stream")


@cache
def _wheel() -> Wheel:
    return wheels.build("nacre")


@cache
def _template() -> str:
    return (files("nacre.control.api") / _SCRIPT).read_text()


ROUTES = (show_script, show_wheel)

"""/v1/images, and the resumable uploads of their content."""

from collections.abc import AsyncGenerator
from typing import Any

from litestar import Request, Response, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.exceptions import InternalServerException
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import ACCEPTED, TheCall
from nacre.control.api.queries import InProject, LabelledInProject, Waiting, WaitingInProject, list_query
from nacre.control.services import image_uploads, images
from nacre.errors import InvalidInputError, NotFoundError, UnavailableError
from nacre.model.images import MAX_ARTIFACT_BYTES, ImageState, Role, Visibility
from nacre.schema.common import Accepted, Page
from nacre.schema.images import ImageCreate, ImageOut, ImageUpdate, UploadOut

OFFSET_HEADER = "Upload-Offset"
UPLOAD_MEDIA_TYPE = "application/octet-stream"


class ImageFilters(LabelledInProject, frozen=True, kw_only=True):
    """How a list of images may be narrowed."""

    name: str | None = None
    """Exactly this name."""
    state: ImageState | None = None
    """Only images in this state."""
    visibility: Visibility | None = None
    """Only private, or only public ones."""


@post("/v1/images", opt={"action": "image:create"}, status_code=ACCEPTED)
async def create_image(
    call: TheCall, data: JSONBody[ImageCreate], params: NamedDependency[Waiting]
) -> Response[Accepted[ImageOut]]:
    """Create an image. Artifacts with neither `url` nor `path` are then uploaded."""
    depot = call.parts.uploads.depot
    return await call.accept(
        lambda tx, caller: images.create(tx, caller, data, depot=depot),
        Accepted[ImageOut],
        lambda found: lambda rd, caller: images.show(rd, caller, found),
        params.wait,
    )


@get("/v1/images", opt={"action": "image:list"})
async def list_images(call: TheCall, params: NamedDependency[ImageFilters]) -> Response[Page[ImageOut]]:
    """List the images of a project, and public ones."""
    return await call.read(lambda rd, caller: images.list_(rd, caller, list_query(params)))


@get("/v1/images/{image:str}", opt={"action": "image:view"})
async def show_image(call: TheCall, image: FromPath[str], params: NamedDependency[InProject]) -> Response[ImageOut]:
    """Show an image, by name or id."""
    return await call.show(lambda rd, caller: images.show(rd, caller, image, project=params.project))


@patch("/v1/images/{image:str}", opt={"action": "image:update", "if_match": True})
async def update_image(
    call: TheCall, image: FromPath[str], data: JSONBody[ImageUpdate], params: NamedDependency[InProject]
) -> Response[ImageOut]:
    """Change fields of an image."""
    return await call.change(
        lambda tx, caller: images.update(tx, caller, image, data, project=params.project, if_match=call.if_match),
        ImageOut,
    )


@delete("/v1/images/{image:str}", opt={"action": "image:delete", "if_match": True}, status_code=ACCEPTED)
async def delete_image(
    call: TheCall, image: FromPath[str], params: NamedDependency[WaitingInProject]
) -> Response[Accepted[ImageOut]]:
    """Delete an image that no machine uses."""
    return await call.accept(
        lambda tx, caller: images.delete(tx, caller, image, project=params.project, if_match=call.if_match),
        Accepted[ImageOut],
        lambda found: lambda rd, caller: images.show(rd, caller, found),
        params.wait,
    )


@get("/v1/images/{image:str}/artifacts/{role:str}/upload", opt={"action": "image:upload", "conflicts": True})
async def show_upload(
    call: TheCall, image: FromPath[str], role: FromPath[str], params: NamedDependency[InProject]
) -> Response[UploadOut]:
    """Show how much of an artifact has arrived: the rest is sent from `offset`."""
    wanted = _role(role)
    return await call.read(
        lambda rd, caller: image_uploads.upload_state(rd, caller, image, wanted, project=params.project)
    )


@patch(
    "/v1/images/{image:str}/artifacts/{role:str}/upload",
    opt={"action": "image:upload", "streamed": True, "headers": {OFFSET_HEADER: "Where these bytes go."}},
    request_max_body_size=MAX_ARTIFACT_BYTES,
)
async def upload(
    call: TheCall,
    image: FromPath[str],
    role: FromPath[str],
    request: Request[Any, Any, Any],
    params: NamedDependency[InProject],
) -> Response[UploadOut]:
    """Append bytes to an artifact, streamed. After a broken connection, ask for the offset and go on from there."""
    offset, chunks = _offset(request), _chunks(request)
    received = await call.parts.uploads.receive(call.caller, image, _role(role), offset, chunks, project=params.project)
    call.context.check()
    return Response(received)


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError as error:
        raise NotFoundError(
            "artifact_not_found",
            f"there is no artifact {text[:80]!r}",
            hint=f"artifacts are: {', '.join(Role)}",
            field="role",
        ) from error


def _offset(request: Request[Any, Any, Any]) -> int:
    text = request.headers.get(OFFSET_HEADER, "")
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_ARTIFACT_BYTES)):
        raise InvalidInputError(
            "invalid_offset",
            f"{OFFSET_HEADER} is {text[:80]!r}, not a number of bytes",
            hint="GET the same path to learn how much has arrived, and send the rest from there",
            field=OFFSET_HEADER,
        )
    return int(text)


async def _chunks(request: Request[Any, Any, Any]) -> AsyncGenerator[bytes]:
    """Yield the body. Raises UnavailableError if the client goes away in the middle: what arrived is kept."""
    try:
        async for chunk in request.stream():
            if chunk:
                yield chunk
    except InternalServerException as error:
        raise UnavailableError(
            "upload_broken", "the client went away in the middle", hint="ask for the offset and send the rest"
        ) from error


ROUTES = (create_image, list_images, show_image, update_image, delete_image, show_upload, upload)

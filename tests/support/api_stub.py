"""A small REST server with the answers of a control plane, in a thread of its own. For tests of the client and the CLI.

Keeps machines and images in memory and can be told to misbehave: drop connections, answer 503, refuse.
"""

import asyncio
import contextlib
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
from aiohttp import WSMsgType, web

from nacre.model.convergence import Conditions
from nacre.model.events import SYSTEM, Event
from nacre.model.guests import SeedRef
from nacre.model.ids import CheckpointId, ImageId, OperationId, ProjectId, TokenId, UserId, VmId, make_id
from nacre.model.images import Artifact, Capture, Format, ImageDefaults, ImageState, Progress, Role, Visibility
from nacre.model.operations import OperationState
from nacre.model.vms import Desired, Phase, VmSpec
from nacre.schema.access import ClaimBody, MeOut, ProjectOut, TokenCreated, TokenOut, UserOut
from nacre.schema.common import Accepted, OperationOut, Page, Problem, ProjectRef
from nacre.schema.images import ImageCreate, ImageOut, ImageUpdate, UploadOut
from nacre.schema.vms import ImageRef, VmCreate, VmOut, VmUpdate
from nacre.schema.volumes import AttachmentOut

TOKEN = "nacre_secret"
CLAIM = "nacre-claim-once"
NOW = datetime(2030, 1, 1, tzinfo=UTC)
PROJECT = ProjectRef(id=ProjectId("prj-" + "0" * 26), name="default")

_counter = iter(range(1, 1 << 30))


def new_id(noun: str) -> str:
    """A fresh id."""
    return make_id(noun, NOW, next(_counter).to_bytes(10, "big"))


def operation(type_: str, object_id: str, name: str, **changes: Any) -> OperationOut:
    """An operation that runs, unless `changes` say otherwise."""
    base: dict[str, Any] = {
        "id": OperationId(new_id("operation")),
        "type": type_,
        "state": OperationState.RUNNING,
        "noun": type_.partition(".")[0],
        "object_id": object_id,
        "object_name": name,
        "project": PROJECT,
        "generation": 1,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return OperationOut(**(base | changes))


def event(cursor: int, message: str = "it happened") -> Event:
    """An event."""
    return Event(
        cursor=cursor,
        at=NOW,
        type="vm.started",
        actor=SYSTEM,
        noun="vm",
        object_id="vm-x",
        object_name="web",
        project=PROJECT.id,
        message=message,
    )


@dataclass
class Upload:
    """What has arrived of one artifact."""

    wanted: str | None
    size: int | None
    data: bytearray = field(default_factory=bytearray)


@dataclass
class ApiStub:
    """The state of the server, for tests to look at and to change."""

    url: str = ""
    projects: list[str] = field(default_factory=lambda: ["default"])
    """Projects that the caller can see."""
    vms: dict[str, VmOut] = field(default_factory=dict)
    attachments: list[AttachmentOut] = field(default_factory=list[AttachmentOut])
    """Volumes of every machine."""
    images: dict[str, ImageOut] = field(default_factory=dict)
    created_images: list[ImageCreate] = field(default_factory=list)
    uploads: dict[tuple[str, str], Upload] = field(default_factory=dict)
    operations: dict[str, OperationOut] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    ends_as: dict[str, Any] = field(default_factory=lambda: {"state": OperationState.SUCCEEDED})
    """How operations end."""
    requests: list[tuple[str, str, dict[str, str], dict[str, str]]] = field(default_factory=list)
    """Method, path, query and headers of every request."""
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    """Answers to give before anything else; status 0 drops the connection."""
    break_uploads_after: list[int] = field(default_factory=list)
    """Drop an upload when the artifact has so many bytes; one entry for each upload."""
    stream_length: int | None = None
    """Events that one stream carries before it ends."""
    claimed: bool = False
    console: Callable[[web.WebSocketResponse, "ApiStub"], Awaitable[None]] | None = None
    consoles: int = 0

    def problem(self, status: int, code: str, detail: str, hint: str = "do otherwise") -> tuple[int, bytes]:
        """A problem document as an answer."""
        body = Problem(
            type="about:blank", title=code, status=status, code=code, detail=detail, hint=hint, request_id="req-1"
        )
        return status, msgspec.json.encode(body)

    def add_vm(self, name: str, **changes: Any) -> VmOut:
        """Put a machine there."""
        vm_id = VmId(new_id("vm"))
        base: dict[str, Any] = {
            "id": vm_id,
            "name": name,
            "project": PROJECT,
            "labels": {},
            "spec": VmSpec(image=ImageId("img-" + "0" * 26)),
            "image": ImageRef(id=ImageId("img-" + "0" * 26), name="tiny"),
            "desired": Desired.RUNNING,
            "phase": Phase.RUNNING,
            "since": NOW,
            "node": None,
            "run": None,
            "conditions": Conditions(converged=True, phase="running", generation=1, observed_generation=1),
            "restart_required": (),
            "created_at": NOW,
            "updated_at": NOW,
            "etag": "e1",
        }
        self.vms[vm_id] = VmOut(**(base | changes))
        return self.vms[vm_id]

    def add_image(self, name: str, **changes: Any) -> ImageOut:
        """Put an image there, ready unless `changes` say otherwise."""
        base: dict[str, Any] = {
            "id": ImageId(new_id("image")),
            "name": name,
            "project": PROJECT,
            "labels": {},
            "state": ImageState.READY,
            "visibility": Visibility.PRIVATE,
            "artifacts": (),
            "progress": (),
            "kernel_args": "",
            "defaults": ImageDefaults(),
            "captured": None,
            "error_code": "",
            "error": "",
            "hint": "",
            "vms": 0,
            "created_at": NOW,
            "updated_at": NOW,
            "etag": "e",
        }
        made = ImageOut(**(base | changes))
        self.images[made.id] = made
        return made

    def vm(self, ref: str) -> VmOut | None:
        """A machine by name or id."""
        return next((vm for vm in self.vms.values() if ref in {vm.id, vm.name}), None)

    def image(self, ref: str) -> ImageOut | None:
        """An image by name or id."""
        return next((image for image in self.images.values() if ref in {image.id, image.name}), None)


class _Server:
    """The routes."""

    def __init__(self, stub: ApiStub) -> None:
        self.stub = stub

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self.boundary], client_max_size=1 << 30)
        app.router.add_post("/v1/claim", self.claim)
        app.router.add_get("/v1/me", self.me)
        app.router.add_get("/v1/projects", self.list_projects)
        app.router.add_get("/v1/projects/{ref}", self.show_project)
        app.router.add_get("/v1/vms", self.list_vms)
        app.router.add_post("/v1/vms", self.create_vm)
        app.router.add_get("/v1/vms/{ref}", self.show_vm)
        app.router.add_patch("/v1/vms/{ref}", self.update_vm)
        app.router.add_delete("/v1/vms/{ref}", self.delete_vm)
        app.router.add_get("/v1/vms/{ref}/log", self.log)
        app.router.add_get("/v1/vms/{ref}/volumes", self.list_volumes)
        app.router.add_get("/v1/vms/{ref}/console", self.console)
        app.router.add_post("/v1/vms/{ref}/{verb}", self.verb)
        app.router.add_get("/v1/images", self.list_images)
        app.router.add_post("/v1/images", self.create_image)
        app.router.add_get("/v1/images/{ref}", self.show_image)
        app.router.add_patch("/v1/images/{ref}", self.update_image)
        app.router.add_get("/v1/images/{ref}/artifacts/{role}/upload", self.upload_state)
        app.router.add_patch("/v1/images/{ref}/artifacts/{role}/upload", self.upload)
        app.router.add_get("/v1/operations", self.list_operations)
        app.router.add_get("/v1/operations/{ref}", self.show_operation)
        app.router.add_get("/v1/events", self.list_events)
        return app

    @web.middleware
    async def boundary(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        stub = self.stub
        stub.requests.append((request.method, request.path, dict(request.query), dict(request.headers)))
        if stub.answers:
            status, body = stub.answers.pop(0)
            if status == 0:
                assert request.transport is not None
                request.transport.close()
            return web.Response(status=status or 200, body=body)
        if request.path != "/v1/claim" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.no(401, "token_unknown", "no such token")
        return await handler(request)

    def no(self, status: int, code: str, detail: str) -> web.Response:
        """A refusal."""
        status, body = self.stub.problem(status, code, detail)
        return web.Response(status=status, body=body, content_type="application/problem+json")

    @staticmethod
    def yes(value: object, status: int = 200) -> web.Response:
        """An answer."""
        return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")

    def accept(self, type_: str, thing: VmOut | ImageOut) -> web.Response:
        """A change that is durable."""
        running = operation(type_, thing.id, thing.name)
        self.stub.operations[running.id] = running
        return self.yes(Accepted[Any](resource=thing, generation=1, operation=running), 202)

    async def claim(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=ClaimBody)
        if self.stub.claimed or body.claim != CLAIM:
            return self.no(401, "claim_unknown", "the claim was used or never was")
        self.stub.claimed = True
        return self.yes(TokenCreated(token=self.token(), secret=TOKEN), 201)

    @staticmethod
    def token() -> TokenOut:
        return TokenOut(
            id=TokenId("tok-" + "0" * 26),
            name="first",
            user=UserId("usr-" + "0" * 26),
            user_name="admin",
            actions=("*:*",),
            project=None,
            created_at=NOW,
            expires_at=NOW,
            last_used_at=None,
            revoked_at=None,
        )

    async def me(self, _: web.Request) -> web.Response:
        user = UserOut(id=UserId("usr-" + "0" * 26), name="admin", display_name="", created_at=NOW, etag="e")
        return self.yes(MeOut(user=user, token=self.token(), grants=[]))

    @staticmethod
    def project(name: str) -> ProjectOut:
        return ProjectOut(id=PROJECT.id, name=name, description="", labels={}, created_at=NOW, updated_at=NOW, etag="e")

    async def list_projects(self, _: web.Request) -> web.Response:
        return self.yes(Page[ProjectOut](items=[self.project(name) for name in self.stub.projects]))

    async def show_project(self, request: web.Request) -> web.Response:
        name = request.match_info["ref"]
        if name not in self.stub.projects:
            return self.no(404, "project_not_found", f"there is no project {name}")
        return self.yes(self.project(name))

    async def list_vms(self, request: web.Request) -> web.Response:
        found = [vm for vm in self.stub.vms.values() if request.query.get("phase") in {None, vm.phase}]
        for label in request.query.getall("label", []):
            key, _, value = label.partition("=")
            found = [vm for vm in found if vm.labels.get(key) == value]
        start, size = int(request.query.get("cursor", "0")), int(request.query.get("limit", "100"))
        following = str(start + size) if start + size < len(found) else None
        return self.yes(Page[VmOut](items=found[start : start + size], next=following))

    async def create_vm(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=VmCreate)
        if self.stub.vm(body.name):
            return self.no(409, "name_taken", f"there is a machine {body.name} already")
        if body.image is None and body.template is None:
            return self.no(400, "missing_field", "image is missing")
        spec = taken_over(VmSpec(image=ImageId("img-" + "0" * 26)), body)
        made = self.stub.add_vm(body.name, labels=body.labels, spec=spec)
        return self.accept("vm.create", made)

    async def show_vm(self, request: web.Request) -> web.Response:
        vm = self.stub.vm(request.match_info["ref"])
        return self.yes(vm) if vm else self.no(404, "vm_not_found", "there is no such machine")

    async def update_vm(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=VmUpdate)
        vm = self.stub.vm(request.match_info["ref"])
        if vm is None:
            return self.no(404, "vm_not_found", "there is no such machine")
        if request.headers.get("If-Match") not in {None, f'"{vm.etag}"'}:
            return self.no(412, "changed_since", "it changed since it was read")
        labels = body.labels if body.labels is not None else vm.labels
        changed = msgspec.structs.replace(vm, labels=labels, spec=taken_over(vm.spec, body))
        self.stub.vms[vm.id] = changed
        return self.accept("vm.update", changed)

    async def delete_vm(self, request: web.Request) -> web.Response:
        vm = self.stub.vm(request.match_info["ref"])
        if vm is None:
            return self.no(404, "vm_not_found", "there is no such machine")
        del self.stub.vms[vm.id]
        return self.accept("vm.delete", vm)

    async def verb(self, request: web.Request) -> web.Response:
        vm = self.stub.vm(request.match_info["ref"])
        if vm is None:
            return self.no(404, "vm_not_found", "there is no such machine")
        return self.accept(f"vm.{request.match_info['verb']}", vm)

    async def log(self, request: web.Request) -> web.Response:
        return web.Response(body=b"booted\r\nlogin: "[-int(request.query.get("tail_bytes", "100")) :])

    async def list_volumes(self, _: web.Request) -> web.Response:
        return self.yes(Page[AttachmentOut](items=self.stub.attachments))

    async def console(self, request: web.Request) -> web.StreamResponse:
        if self.stub.vm(request.match_info["ref"]) is None:
            return self.no(404, "vm_not_found", "there is no such machine")
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.stub.consoles += 1
        assert self.stub.console is not None
        await self.stub.console(socket, self.stub)
        return socket

    async def list_images(self, _: web.Request) -> web.Response:
        return self.yes(Page[ImageOut](items=list(self.stub.images.values())))

    async def create_image(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=ImageCreate)
        self.stub.created_images.append(body)
        if self.stub.image(body.name):
            return self.no(409, "name_taken", f"there is an image {body.name} already")
        if body.checkpoint is not None:
            return self.capture_image(body)
        image_id = ImageId(new_id("image"))
        for source in body.artifacts:
            self.stub.uploads[image_id, source.role.value] = Upload(source.sha256, source.size_bytes)
        made = self.stub.add_image(
            body.name,
            id=image_id,
            labels=body.labels,
            state=ImageState.UPLOADING,
            visibility=body.visibility,
            progress=tuple(Progress(role=s.role, received_bytes=0, total_bytes=s.size_bytes) for s in body.artifacts),
            kernel_args=body.kernel_args,
            defaults=body.defaults,
        )
        return self.accept("image.import", made)

    def capture_image(self, body: ImageCreate) -> web.Response:
        vm, _, checkpoint = (body.checkpoint or "").partition("/")
        machine = self.stub.vm(vm)
        if machine is None:
            return self.no(404, "checkpoint_not_found", f"there is no checkpoint {body.checkpoint}")
        captured = Capture(
            vm=machine.id,
            vm_name=vm,
            checkpoint=CheckpointId(new_id("checkpoint")),
            checkpoint_name=checkpoint,
        )
        made = self.stub.add_image(
            body.name, captured=captured, kernel_args=body.kernel_args, defaults=body.defaults, labels=body.labels
        )
        return self.accept("image.capture", made)

    async def show_image(self, request: web.Request) -> web.Response:
        image = self.stub.image(request.match_info["ref"])
        if image is None:
            return self.no(404, "image_not_found", "there is no such image")
        parts = {role: upload for (owner, role), upload in self.stub.uploads.items() if owner == image.id}
        if all(self.complete(upload) for upload in parts.values()):
            artifacts = tuple(
                Artifact(
                    role=Role(role),
                    format=Format.RAW,
                    size_bytes=len(upload.data),
                    sha256=hashlib.sha256(upload.data).hexdigest(),
                    virtual_size_bytes=len(upload.data),
                )
                for role, upload in parts.items()
            )
            image = msgspec.structs.replace(image, state=ImageState.READY, artifacts=artifacts)
        return self.yes(image)

    async def update_image(self, request: web.Request) -> web.Response:
        body = msgspec.json.decode(await request.read(), type=ImageUpdate)
        image = self.stub.images[ImageId(request.match_info["ref"])]
        if request.headers.get("If-Match") != f'"{image.etag}"':
            return self.no(412, "changed_since", "it changed since it was read")
        given = {name: value for name in body.__struct_fields__ if (value := getattr(body, name)) is not None}
        self.stub.images[image.id] = msgspec.structs.replace(image, **given)
        return self.yes(self.stub.images[image.id])

    @staticmethod
    def complete(upload: Upload) -> bool:
        return len(upload.data) == upload.size and hashlib.sha256(upload.data).hexdigest() == upload.wanted

    def out(self, role: str, upload: Upload) -> UploadOut:
        return UploadOut(
            role=Role(role), offset=len(upload.data), size_bytes=upload.size, complete=self.complete(upload)
        )

    async def upload_state(self, request: web.Request) -> web.Response:
        role = request.match_info["role"]
        return self.yes(self.out(role, self.stub.uploads[request.match_info["ref"], role]))

    async def upload(self, request: web.Request) -> web.Response:
        role = request.match_info["role"]
        upload = self.stub.uploads[request.match_info["ref"], role]
        if int(request.headers["Upload-Offset"]) != len(upload.data):
            return self.no(409, "upload_offset_mismatch", "these bytes belong elsewhere")
        limit = self.stub.break_uploads_after.pop(0) if self.stub.break_uploads_after else None
        async for chunk in request.content.iter_any():
            upload.data += chunk
            if limit is not None and len(upload.data) >= limit:
                del upload.data[limit:]
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
        return self.yes(self.out(role, upload))

    async def list_operations(self, request: web.Request) -> web.Response:
        found = [o for o in self.stub.operations.values() if request.query.get("object") in {None, o.object_id}]
        return self.yes(Page[OperationOut](items=found))

    async def show_operation(self, request: web.Request) -> web.Response:
        found = self.stub.operations.get(request.match_info["ref"])
        if found is None:
            return self.no(404, "operation_not_found", "there is no such operation")
        if self.stub.ends_as.get("state") is OperationState.RUNNING:
            await asyncio.sleep(min(0.05, float(request.query.get("wait", "0"))))
        return self.yes(msgspec.structs.replace(found, **self.stub.ends_as))

    async def list_events(self, request: web.Request) -> web.StreamResponse:
        after = int(request.headers.get("Last-Event-ID") or request.query.get("after") or 0)
        if "text/event-stream" in request.headers["Accept"]:
            return await self.stream(request, after)
        before, limit = int(request.query.get("before", str(1 << 62))), int(request.query["limit"])
        found = [e for e in self.stub.events if after < e.cursor < before]
        found = found[::-1][:limit] if "before" in request.query else found[:limit]
        return self.yes(Page[Event](items=found))

    async def stream(self, request: web.Request, after: int) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b": hello\n\n")
        sent = 0
        while self.stub.stream_length is None or sent < self.stub.stream_length:
            for found in [e for e in self.stub.events if e.cursor > after][: (self.stub.stream_length or 1000) - sent]:
                text = msgspec.json.encode(found).decode()
                await response.write(f"id: {found.cursor}\nevent: {found.type}\ndata: {text}\n\n".encode())
                after, sent = found.cursor, sent + 1
            await asyncio.sleep(0.01)
        return response


async def echo_console(socket: web.WebSocketResponse, _: ApiStub) -> None:
    """A console that greets, and says back what it is told in capitals. `quit` closes it; `drop` breaks it."""
    await socket.send_bytes(b"greetings\r\n")
    async for message in socket:
        if message.type is not WSMsgType.BINARY:
            continue
        text: bytes = message.data.strip()
        if text == b"quit":
            await socket.close(code=1000, message=b"the machine stopped")
            return
        if text == b"drop":
            assert socket._req is not None
            assert socket._req.transport is not None
            socket._req.transport.abort()
            return
        await socket.send_bytes(message.data.upper())


@contextlib.contextmanager
def api_stub() -> Iterator[ApiStub]:
    """A running server."""
    stub = ApiStub(console=echo_console)
    loop = asyncio.new_event_loop()
    started = threading.Event()
    stopping = asyncio.Event()

    async def serve() -> None:
        runner = web.AppRunner(_Server(stub).app(), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stub.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield stub
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)
        loop.close()


def taken_over(spec: VmSpec, body: VmCreate | VmUpdate) -> VmSpec:
    """The configuration with what a body gives."""
    names = set(spec.__struct_fields__) & set(body.__struct_fields__) - {"image", "cloud_init"}
    given = {name: value for name in names if (value := getattr(body, name)) is not None}
    if body.cloud_init is not None:
        seed = body.cloud_init
        parts = tuple(name for name in seed.__struct_fields__ if getattr(seed, name))
        given["cloud_init"] = SeedRef(digest="00ff", parts=parts, hostname=seed.hostname, user=seed.user)
    return msgspec.structs.replace(spec, **given)

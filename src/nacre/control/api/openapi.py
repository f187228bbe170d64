"""The OpenAPI 3.1 document of the API, made from its routes and types.

Served at /openapi.json and /openapi.yaml, and committed as `openapi.yaml` (`python -m nacre.control.api --write`).
Everything in it comes from the handlers: path, docstring, parameters, body, answer, declared action.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import msgspec
import yaml
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.response import Stream

from nacre.control.api import problems, schemas
from nacre.control.api.calls import ACCEPTED, CREATED, NO_CONTENT, OK
from nacre.control.api.queries import Params, without_none
from nacre.control.api.schemas import Schema
from nacre.schema.common import Problem

JSON = "application/json"
SECURITY = "token"
_CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})

DESCRIPTION = """\
The API of a Nacre control plane.

Authenticate with `Authorization: Bearer <token>`. Objects are addressed by name or by id. A change that takes time is
answered with 202, the object, its target generation and an operation; `?wait=30` holds the answer until it has
converged. Send an `Idempotency-Key` with a change to be able to repeat it safely, and `If-Match` with the `ETag` of
what you have seen to change only that. Lists are read by following `next` as `cursor`. Errors are
`application/problem+json` with a stable `code` and a `hint`.

The serial console of a machine is a WebSocket at `/v1/vms/{vm}/console`: binary frames both ways, scrollback first.
Its screen is one at `/v1/vms/{vm}/display`: RFB (VNC) in binary frames. A command with its streams is one at
`/v1/vms/{vm}/exec`: each frame is a byte that names its channel (0 standard input, 1 standard output, 2 standard error,
3 control) and the data; the first frame to the server is the request on channel 3, an empty frame on channel 0 ends
standard input, and the last frame from the server is the result on channel 3.
"""

_IDEMPOTENCY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Makes the change safe to repeat for 24 hours: the same key gives the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag that the object must still have; otherwise 412.",
    "schema": {"type": "string"},
}


@dataclass(frozen=True)
class Operation:
    """One method of one path."""

    path: str
    method: str
    handler: HTTPRouteHandler

    @property
    def body(self) -> Any | None:
        """The type of its JSON body."""
        definition = self.handler.parsed_fn_signature.parameters.get("data")
        return None if definition is None else definition.annotation

    @property
    def answer(self) -> Any | None:
        """The type of its JSON answer."""
        annotation = self.handler.parsed_fn_signature.return_type.raw
        kinds = [part for part in _parts(annotation) if get_origin(part) is Response]
        inner = get_args(kinds[0])[0] if kinds else None
        return None if inner in {bytes, str} else inner

    @property
    def params(self) -> type[Params]:
        """The struct of its query parameters."""
        definition = self.handler.parsed_fn_signature.parameters.get("params")
        return Params if definition is None else definition.annotation


def document(app: Litestar, release: str) -> Schema:
    """Return the document."""
    operations = sorted(_operations(app), key=lambda operation: (operation.path, operation.method))
    kinds = [kind for operation in operations for kind in (operation.body, operation.answer) if kind is not None]
    unique = list({repr(kind): kind for kind in [*kinds, Problem]}.values())
    made, named = schemas.components(unique)
    refs = dict(zip((repr(kind) for kind in unique), made, strict=True))
    paths: dict[str, dict[str, Schema]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _describe(operation, refs)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nacre",
            "version": release,
            "description": DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{SECURITY: []}],
        "tags": [{"name": tag} for tag in sorted({_tag(path) for path in paths})],
        "paths": paths,
        "components": {
            "schemas": named,
            "responses": {str(status): _problem(status) for status in sorted(problems.MEANING)},
            "securitySchemes": {
                SECURITY: {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API token (`nacre token create`), or the one that the claim was turned into.",
                }
            },
        },
    }


def to_yaml(made: Schema) -> str:
    """Return the document as YAML."""
    _Dumper.add_representer(str, _text)
    return yaml.dump(made, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with long texts as they are read."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - the signature of the base
        """Write everything out."""
        return True


def _text(_dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


def _operations(app: Litestar) -> Iterator[Operation]:
    for route in app.routes:
        for handler in getattr(route, "route_handlers", ()):
            if isinstance(handler, HTTPRouteHandler) and handler.opt.get("documented", True):
                for method in handler.http_methods - {"OPTIONS"}:
                    yield Operation(re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), str(method), handler)


def _describe(operation: Operation, refs: dict[str, Schema]) -> Schema:
    handler = operation.handler
    summary, _, more = (handler.fn.__doc__ or "").partition(". ")
    described: Schema = {
        "operationId": handler.handler_name.rpartition(".")[2],
        "summary": summary.strip().rstrip("."),
        "tags": [_tag(operation.path)],
    }
    if more:
        described["description"] = " ".join(more.split())
    if action := handler.opt.get("action"):
        described["x-nacre-action"] = action
    else:
        described["security"] = []
    if parameters := [*_path_parameters(operation), *_query_parameters(operation.params), *_headers(operation)]:
        described["parameters"] = parameters
    if operation.body is not None:
        described["requestBody"] = _body(operation, refs)
    elif handler.opt.get("streamed"):
        described["requestBody"] = {"required": True, "content": {"application/octet-stream": {}}}
    described["responses"] = _responses(operation, refs)
    return described


def _body(operation: Operation, refs: dict[str, Schema]) -> Schema:
    optional = without_none(operation.body) is not operation.body
    return {"required": not optional, "content": {JSON: {"schema": refs[repr(operation.body)]}}}


def _path_parameters(operation: Operation) -> list[Schema]:
    names = re.findall(r"\{(\w+)\}", operation.path)
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_TEXTS.get(name, f"Name or id of the {name}."),
            "schema": {"type": "string"} | _PATH_SCHEMAS.get(name, {}),
        }
        for name in names
    ]


_PATH_TEXTS = {
    "grant": "Id of the grant.",
    "instance_type": "Name or id of the instance type.",
    "operation": "Id of the operation.",
    "role": "Which artifact.",
    "file": "Name of the file.",
}
_PATH_SCHEMAS: dict[str, Schema] = {"role": {"enum": ["disk", "kernel", "initrd", "iso"]}}


def _query_parameters(kind: type[Params]) -> list[Schema]:
    texts = schemas.field_docs(kind)
    parameters: list[Schema] = []
    for field in msgspec.structs.fields(kind):
        schema = msgspec.json.schema(without_none(field.type))
        reference = schema.pop("$ref", None)
        definitions = schema.pop("$defs", {})
        if reference is not None:
            schema = definitions[reference.rpartition("/")[2]]
        schema.pop("title", None)
        schema.pop("description", None)
        if field.default not in {None, msgspec.NODEFAULT, ()}:
            schema["default"] = field.default
        parameter: Schema = {"name": field.encode_name, "in": "query", "required": False, "schema": schema}
        if field.name in texts:
            parameter["description"] = texts[field.name]
        parameters.append(parameter)
    return parameters


def _headers(operation: Operation) -> list[Schema]:
    opt = operation.handler.opt
    headers = [
        _IF_MATCH | {"name": name, "required": True, "description": text, "schema": {"type": "integer", "minimum": 0}}
        for name, text in opt.get("headers", {}).items()
    ]
    if operation.method in _CHANGES and not opt.get("public") and not opt.get("streamed"):
        headers.append(_IDEMPOTENCY)
    if opt.get("if_match"):
        headers.append(_IF_MATCH)
    return headers


def _responses(operation: Operation, refs: dict[str, Schema]) -> Schema:
    handler = operation.handler
    responses: Schema = {}
    for status in _statuses(operation):
        response: Schema = {"description": _GOOD[status]}
        if headers := _answer_headers(operation, status):
            response["headers"] = {name: {"description": text, "schema": {"type": "string"}} for name, text in headers}
        if produces := handler.opt.get("produces"):
            response["content"] = {produces: {"schema": {"type": "string"}}}
        elif operation.answer is not None:
            response["content"] = {JSON: {"schema": refs[repr(operation.answer)]}}
        responses[str(status)] = response
    for status in _errors(operation):
        responses[str(status)] = {"$ref": f"#/components/responses/{status}"}
    return responses


def _answer_headers(operation: Operation, status: int) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = []
    if status in {CREATED, ACCEPTED} and not operation.handler.opt.get("public"):
        headers.append(("Location", "Where the new object, or the operation, is."))
    if operation.handler.opt.get("if_match") and status != NO_CONTENT:
        headers.append(("ETag", "The state of the object, for If-Match."))
    return headers


_GOOD = {
    OK: "Done.",
    CREATED: "Made; `Location` says where it is.",
    ACCEPTED: "The change is durable and under way; `Location` is its operation.",
    NO_CONTENT: "Done, and nothing to say.",
}


def _statuses(operation: Operation) -> list[int]:
    """Return the statuses of success."""
    status = operation.handler.status_code
    return [OK, ACCEPTED] if status == ACCEPTED and "wait" in operation.params.__struct_fields__ else [status]


def _errors(operation: Operation) -> list[int]:
    opt = operation.handler.opt
    if "errors" in opt:
        return list(opt["errors"])
    errors = {400, 500, 503}
    if not opt.get("public"):
        errors |= {401, 403, 404}
    if operation.method in _CHANGES:
        errors |= {404, 409, 413, 422}
    if opt.get("if_match"):
        errors.add(412)
    if opt.get("conflicts"):
        errors.add(409)
    if opt.get("streamed") or opt.get("reaches_nodes"):
        errors |= {409, 504, 507}
    return sorted(errors)


def _problem(status: int) -> Schema:
    return {
        "description": problems.MEANING[status],
        "content": {problems.MEDIA_TYPE: {"schema": {"$ref": schemas.REF.format(name="Problem")}}},
    }


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[1] if parts[0] == "v1" and len(parts) > 1 else "platform"


def _parts(annotation: Any) -> tuple[Any, ...]:
    return (annotation,) if get_origin(annotation) in {Response, Stream} else get_args(annotation) or (annotation,)

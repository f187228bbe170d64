"""Every no is a problem document with a code, words and a hint, and tells nothing that it should not."""

import ast
from pathlib import Path

import pytest
from litestar import get
from structlog.testing import capture_logs

import nacre
from nacre.control.api import problems
from nacre.control.api.routes import ROUTES, serve
from nacre.errors import Kind, NotFoundError
from support.api import Api

pytestmark = pytest.mark.anyio

FIELDS = {"type", "title", "status", "code", "detail", "hint", "request_id", "field", "retryable"}
SOURCE = Path(nacre.__file__).parent
SECRET_PATH = "/var/lib/nacre/secret"


@get("/v1/broken", opt={"public": True})
async def broken() -> None:
    """Breaks."""
    raise OSError(2, "no such file", SECRET_PATH)


def test_every_kind_of_error_has_a_status_with_a_meaning() -> None:
    assert set(problems.STATUS) == set(Kind)
    assert set(problems.STATUS.values()) <= set(problems.MEANING)


def test_a_problem_says_what_and_what_to_do() -> None:
    error = NotFoundError("vm_not_found", "there is no machine web", hint="list them", field="vm")
    problem = problems.of_error(error, "abc")
    assert problem.status == 404
    assert problem.type == "urn:nacre:problem:vm_not_found"
    assert (problem.code, problem.detail, problem.hint, problem.field, problem.request_id) == (
        "vm_not_found",
        "there is no machine web",
        "list them",
        "vm",
        "abc",
    )


async def test_a_defect_shows_nothing_of_itself_but_is_in_the_log(one_api: Api) -> None:
    one_api.asgi = serve(one_api.parts, (*ROUTES, broken))
    with capture_logs() as logs:
        async with one_api.client() as client:
            answer = await client.get("/v1/broken", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert set(answer.json()) == FIELDS
    assert answer.json()["request_id"] == answer.headers["x-request-id"] == "find-me"
    assert SECRET_PATH not in answer.text
    assert "Traceback" not in answer.text
    defect = next(line for line in logs if line["event"] == "http.defect")
    assert isinstance(defect["exc_info"], OSError)


BAD: list[tuple[str, str, dict[str, object], int, str, str | None]] = [
    ("GET", "/v1/nothing", {}, 404, "no_such_route", None),
    ("PUT", "/v1/projects", {}, 405, "method_not_allowed", None),
    ("POST", "/v1/projects", {}, 400, "missing_body", None),
    ("POST", "/v1/projects", {"content": b"{"}, 400, "malformed_json", None),
    ("POST", "/v1/projects", {"content": b'{"name": "\xff"}'}, 400, "malformed_json", None),
    ("POST", "/v1/projects", {"content": b"[" * 5000}, 400, "invalid_field", None),
    ("POST", "/v1/projects", {"content": b"name=x", "headers": {"Content-Type": "text/plain"}}, 400, "not_json", None),
    ("POST", "/v1/projects", {"json": []}, 400, "invalid_field", None),
    ("POST", "/v1/projects", {"json": {}}, 400, "missing_field", "name"),
    ("POST", "/v1/projects", {"json": {"name": 1}}, 400, "invalid_field", "name"),
    ("POST", "/v1/projects", {"json": {"name": "x", "descripton": ""}}, 400, "unknown_field", "descripton"),
    ("POST", "/v1/projects", {"json": {"name": "a/b"}}, 400, "invalid_name", "name"),
    ("POST", "/v1/projects", {"json": {"name": "x", "labels": {"a": 1}}}, 400, "invalid_field", "labels[]"),
    ("POST", "/v1/projects", {"json": {"name": "x", "description": "\0"}}, 400, "nul_character", None),
    ("POST", "/v1/vms", {"json": {"name": "x", "image": "i", "cpus": "2"}}, 400, "invalid_field", "cpus"),
    ("POST", "/v1/vms", {"json": {"name": "x", "image": "i", "cpus": -2}}, 400, "invalid_field", "cpus"),
    ("POST", "/v1/vms", {"json": {"name": "x", "image": "i", "memory_bytes": 10**30}}, 400, "invalid_field", None),
    ("POST", "/v1/vms?wait=301", {"json": {"name": "x", "image": "i"}}, 400, "invalid_parameter", "wait"),
    ("POST", "/v1/vms/web/start", {"json": {"force": True}}, 400, "unexpected_body", None),
    ("POST", "/v1/vms/web/start", {"content": b"force"}, 400, "unexpected_body", None),
    ("POST", "/v1/vms/web/start", {"json": {}}, 404, "vm_not_found", None),
    ("POST", "/v1/vms/web/start", {"content": b" null "}, 404, "vm_not_found", None),
    ("DELETE", "/v1/vms/web", {"json": {"force": True}}, 400, "unexpected_body", None),
    ("GET", "/v1/projects", {"json": {"limit": 1}}, 400, "unexpected_body", None),
    ("GET", "/v1/projects?limit=0", {}, 400, "invalid_parameter", "limit"),
    ("GET", "/v1/projects?limit=ten", {}, 400, "invalid_parameter", "limit"),
    ("GET", "/v1/projects?limit=1&limit=2", {}, 400, "repeated_parameter", "limit"),
    ("GET", "/v1/projects?lim=1", {}, 400, "unknown_parameter", "lim"),
    ("GET", "/v1/projects?name=%00", {}, 400, "nul_character", "name"),
    ("GET", "/v1/projects?label=x", {}, 400, "invalid_label_filter", "label"),
    ("GET", "/v1/projects?sort=size", {}, 400, "invalid_sort", "sort"),
    ("GET", "/v1/projects?cursor=nonsense", {}, 400, "invalid_cursor", "cursor"),
    ("GET", "/v1/projects/%00", {}, 404, "no_such_route", None),
    ("GET", "/v1/events?after=-1", {}, 400, "invalid_parameter", "after"),
    ("GET", "/v1/operations/op-x", {}, 404, "operation_not_found", None),
]


@pytest.mark.parametrize(("method", "path", "more", "status", "code", "field"), BAD)
async def test_bad_input_is_a_clear_problem(
    one_api: Api, method: str, path: str, more: dict[str, object], status: int, code: str, field: str | None
) -> None:
    async with one_api.client() as client:
        answer = await client.request(method, path, **more)  # type: ignore[arg-type]
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == problems.MEDIA_TYPE
    assert set(problem) == FIELDS
    assert problem["hint"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    if field is not None:
        assert problem["field"] == field


async def test_a_misspelt_field_gets_the_right_spelling(one_api: Api) -> None:
    async with one_api.client() as client:
        answer = await client.post("/v1/vms", json={"name": "x", "image": "i", "memory_byte": 1})
        assert answer.json()["hint"] == "did you mean memory_bytes?"
        nested = await client.post("/v1/vms", json={"name": "x", "image": "i", "publish": [{"hostport": 1}]})
        assert nested.json()["field"] == "publish[0].hostport"
        assert nested.json()["hint"] == "did you mean host_port?"
        parameter = await client.get("/v1/projects", params={"labels": "a=b"})
        assert parameter.json()["hint"] == "did you mean label?"


VM = {"name": "x", "image": "i"}
WORDS: list[tuple[str, str, object, str, str]] = [
    ("GET", "/v1/vms?phase=nope", None, "phase=nope: 'nope' is none of its values", "running"),
    ("GET", "/v1/grants?role=boss", None, "'boss' is none of its values", "admin"),
    ("POST", "/v1/vms", {**VM, "ha": "maybe"}, "ha: 'maybe' is none of its values", "one of: none, restart"),
    ("POST", "/v1/vms", {**VM, "cpu": {"model": "a b"}}, "cpu.model: expected letters, digits, dots,", "openapi"),
    ("POST", "/v1/vms", {**VM, "nics": [{"mac": "x"}]}, "nics[0].mac: expected six pairs of lower-case hex", "openapi"),
    ("POST", "/v1/vms", {**VM, "cloud_init": {"hostname": "_"}}, "hostname: expected a host name", "openapi"),
]


@pytest.mark.parametrize(("method", "path", "body", "detail", "hint"), WORDS)
async def test_a_wrong_value_is_told_what_would_be_right(
    one_api: Api, method: str, path: str, body: object, detail: str, hint: str
) -> None:
    async with one_api.client() as client:
        problem = (await client.request(method, path, json=body)).json()
    assert detail in problem["detail"]
    assert hint in problem["hint"]


def test_every_form_that_a_text_has_to_have_is_told_in_words() -> None:
    """As `wrong_values` wants them, whoever declares a pattern."""
    found = [path for part in ("model", "schema") for path in (SOURCE / part).glob("*.py")]
    metas = [call for path in found for call in ast.walk(ast.parse(path.read_text())) if isinstance(call, ast.Call)]
    given = [{keyword.arg for keyword in call.keywords} for call in metas]
    patterns = [names for names in given if "pattern" in names]
    assert patterns
    assert all("extra" in names for names in patterns)


async def test_a_wrong_method_is_told_the_right_ones(one_api: Api) -> None:
    async with one_api.client() as client:
        answer = await client.put("/v1/projects/x", json={})
    assert {"GET", "PATCH", "DELETE"} <= set(answer.headers["allow"].split(", "))


async def test_a_body_that_is_too_large_is_refused(one_api: Api) -> None:
    async with one_api.client() as client:
        answer = await client.post("/v1/projects", content=b" " * (2 << 20))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")

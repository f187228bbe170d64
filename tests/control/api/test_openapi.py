"""The OpenAPI document: in step with the code, complete, and written for people."""

from pathlib import Path
from typing import Any

import pytest

from nacre.control.api import problems
from nacre.control.api.__main__ import main
from nacre.control.api.openapi import document, to_yaml
from nacre.control.api.routes import build
from nacre.control.auth.actions import ACTIONS, OWN_ACTIONS

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return document(build(None), "0.1.0")


def operations(made: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{method} {path}", operation)
        for path, methods in made["paths"].items()
        for method, operation in methods.items()
    ]


def test_the_committed_document_is_in_step_with_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["openapi", "--check"])
    assert main() == 0, "run: python -m nacre.control.api --write"


def test_a_document_that_is_out_of_step_is_noticed_and_mended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / "openapi.yaml"
    copy.write_text((ROOT / "openapi.yaml").read_text().replace("list_vms", "list_machines"))
    monkeypatch.setattr("sys.argv", ["openapi", "--check", "--file", str(copy)])
    assert main() == 1
    monkeypatch.setattr("sys.argv", ["openapi", "--write", "--file", str(copy)])
    assert main() == 0
    assert copy.read_text() == (ROOT / "openapi.yaml").read_text()


def test_every_operation_has_words_a_tag_and_an_answer(made: dict[str, Any]) -> None:
    for name, operation in operations(made):
        assert operation["summary"], name
        assert operation["tags"], name
        assert any(status.startswith("2") for status in operation["responses"]), name


def test_operation_ids_are_unique(made: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, operation in operations(made)]
    assert len(ids) == len(set(ids))


def test_every_operation_says_its_action_or_that_it_needs_no_token(made: dict[str, Any]) -> None:
    for name, operation in operations(made):
        action = operation.get("x-nacre-action")
        assert (action in ACTIONS.keys() | OWN_ACTIONS) != (operation.get("security") == []), name


def test_every_error_is_documented_as_a_problem_that_exists(made: dict[str, Any]) -> None:
    responses = made["components"]["responses"]
    assert set(responses) == {str(status) for status in problems.MEANING}
    for response in responses.values():
        assert list(response["content"]) == [problems.MEDIA_TYPE]
    for name, operation in operations(made):
        for status, response in operation["responses"].items():
            if "$ref" in response:
                assert response["$ref"] == f"#/components/responses/{status}", name


def test_every_reference_leads_somewhere_and_no_schema_is_idle(made: dict[str, Any]) -> None:
    found: set[str] = set()

    def walk(part: Any) -> None:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                found.add(part["$ref"])
            for inner in part.values():
                walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(made)
    schemas = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert {ref for ref in found if "/schemas/" in ref} == schemas
    assert not [name for name in made["components"]["schemas"] if "." in name or "_" in name]


def test_changes_take_an_idempotency_key_and_guarded_ones_an_etag(made: dict[str, Any]) -> None:
    names = {p["name"] for p in made["paths"]["/v1/vms/{vm}"]["patch"]["parameters"]}
    assert {"vm", "wait", "project", "Idempotency-Key", "If-Match"} == names
    assert "Idempotency-Key" not in {p["name"] for p in made["paths"]["/v1/vms"]["get"]["parameters"]}


def test_docstrings_of_fields_become_descriptions(made: dict[str, Any]) -> None:
    vm = made["components"]["schemas"]["VmCreate"]
    assert vm["properties"]["image"]["description"] == "Name or id of an image that is ready."
    page = made["components"]["schemas"]["PageVmOut"]
    assert page["description"].startswith("Part of a list.")


def test_bodies_refuse_unknown_fields_on_paper_too(made: dict[str, Any]) -> None:
    for name, operation in operations(made):
        content = operation.get("requestBody", {}).get("content", {}).get("application/json")
        if content is None or "$ref" not in content["schema"]:
            continue
        schema = made["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        assert schema["additionalProperties"] is False, name


def test_the_document_as_yaml_has_no_anchors(made: dict[str, Any]) -> None:
    text = to_yaml(made)
    assert "&id" not in text
    assert "*id" not in text


def test_every_field_and_parameter_has_help(made: dict[str, Any]) -> None:
    bare = [
        f"{name}.{field}"
        for name, schema in made["components"]["schemas"].items()
        for field, prop in schema.get("properties", {}).items()
        if not prop.get("description")
    ]
    bare += [
        f"{name} ?{parameter['name']}"
        for name, operation in operations(made)
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert bare == [], "write a docstring below each field"

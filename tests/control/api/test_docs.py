"""Swagger UI and the document are served from here, and nothing is asked of the network."""

import re

import pytest
import yaml

from support.api import Api

pytestmark = pytest.mark.anyio


async def test_the_page_and_everything_it_names_come_from_this_server(one_api: Api) -> None:
    async with one_api.client("") as client:
        page = await client.get("/docs")
        assert page.headers["content-type"].startswith("text/html")
        named = re.findall(r'(?:href|src)="([^"]+)"', page.text)
        assert len(named) == 4
        for path in named:
            assert path.startswith("/docs/")
            file = await client.get(path)
            assert file.status_code == 200, path
            assert file.content
        assert "SwaggerUIBundle" in (await client.get("/docs/swagger-ui-bundle.js")).text[:100_000]
        start = (await client.get("/docs/start.js")).text
        assert 'url: "/openapi.json"' in start
        assert "http" not in start


async def test_the_page_may_load_nothing_from_elsewhere(one_api: Api) -> None:
    async with one_api.client("") as client:
        policy = (await client.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy


async def test_the_document_is_served_as_json_and_yaml(one_api: Api) -> None:
    async with one_api.client("") as client:
        as_json = await client.get("/openapi.json")
        as_yaml = await client.get("/openapi.yaml")
    assert as_json.json()["openapi"] == "3.1.0"
    assert yaml.safe_load(as_yaml.text) == as_json.json()


@pytest.mark.parametrize("path", ["/docs/nothing.js", "/docs/swagger-editor-bundle.js", "/docs/..%2f__init__.py"])
async def test_no_other_file_is_served(one_api: Api, path: str) -> None:
    async with one_api.client("") as client:
        assert (await client.get(path)).status_code == 404

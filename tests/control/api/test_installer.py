"""The script that makes a host a node, and the wheel that it installs, over HTTP."""

import hashlib
import re
import shutil
import subprocess
from dataclasses import replace

import msgspec
import pytest

from nacre.control.api.routes import serve
from support.api import Api

pytestmark = pytest.mark.anyio


def variable(script: str, name: str) -> str:
    found = re.search(rf"^{name}='(.*)'$", script, re.MULTILINE)
    assert found is not None
    return found[1]


async def test_the_script_and_its_wheel_need_no_token_and_fit_together(one_api: Api) -> None:
    async with one_api.client("") as client:
        answer = await client.get("/install.sh")
        assert answer.headers["content-type"].startswith("text/x-shellscript")
        script = answer.text
        wheel = await client.get(f"/install/{variable(script, 'WHEEL')}")
    assert wheel.status_code == 200
    assert hashlib.sha256(wheel.content).hexdigest() == variable(script, "SHA256")
    assert variable(script, "VERSION") == one_api.parts.version
    assert not re.search("@[A-Z0-9]+@", script)


async def test_the_script_is_plain_posix_shell(one_api: Api) -> None:
    async with one_api.client("") as client:
        script = (await client.get("/install.sh")).text
    for shell in (["dash", "-n"], ["bash", "--posix", "-n"]):
        if shutil.which(shell[0]):
            assert subprocess.run(shell, input=script, text=True, timeout=10, check=False).returncode == 0
    assert script.rstrip().splitlines()[-1].startswith('main "$@"')


async def test_another_version_of_the_wheel_is_not_here(one_api: Api) -> None:
    async with one_api.client("") as client:
        answer = await client.get("/install/nacre-0.0.0-py3-none-any.whl")
        assert (await client.get("/install/..%2f..%2fetc%2fpasswd")).status_code == 404
    assert (answer.status_code, answer.json()["code"]) == (404, "file_not_found")
    assert "/install.sh" in answer.json()["hint"]


async def test_the_address_is_the_one_that_was_asked_unless_it_is_set(one_api: Api) -> None:
    async with one_api.client("") as client:
        asked = (await client.get("/install.sh", headers={"Host": "cloud.example:7480"})).text
        for host in ("x'; id; '", "x$(id)", "x`id`", "", "-", "a" * 300):
            bent = await client.get("/install.sh", headers={"Host": host})
            assert bent.status_code == 400 or variable(bent.text, "API") == f"http://{one_api.parts.settings.listen}"
    assert variable(asked, "API") == "http://cloud.example:7480"
    settings = msgspec.structs.replace(one_api.parts.settings, api_url="https://cloud.example/nacre")
    one_api.asgi = serve(replace(one_api.parts, settings=settings))
    async with one_api.client("") as client:
        assert variable((await client.get("/install.sh")).text, "API") == "https://cloud.example/nacre"


async def test_a_token_comes_with_the_command_for_the_address_that_was_asked(one_api: Api) -> None:
    async with one_api.client() as client:
        made = await client.post("/v1/nodes/tokens", json={"uses": 3}, headers={"Host": "10.0.0.1:7480"})
    assert made.json()["command"] == "curl -fsSL http://10.0.0.1:7480/install.sh | sudo sh"
    assert made.json()["token"]["uses"] == 3

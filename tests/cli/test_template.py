"""Templates and instance types, and machines made from them, from the shell to the database and back."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import structlog

from nacre.cli import exits, main
from nacre.control.store.db import Database
from support.api import Api, api_over, obedient_node, on_a_socket, tiny_image
from support.command_line import Ran

pytestmark = pytest.mark.anyio

Nacre = Callable[..., Awaitable[Ran]]

CONFIG = """
image: tiny
memory: 1GiB
restart: always
labels: {app: shop}
placement: {zones: [north]}
"""


@pytest.fixture
async def api(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Api]:
    made = await api_over(sqlite_database, tmp_path / "data")
    await tiny_image(made)
    async with on_a_socket(made) as url:
        made.url = url
        yield made


@pytest.fixture
def nacre(api: Api, alone: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Nacre:
    """The command line in a thread of its own, logged in. The server's log stays out of what it prints."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    monkeypatch.setenv("NACRE_URL", api.url)
    monkeypatch.setenv("NACRE_TOKEN", api.token)

    async def run(*words: str) -> Ran:
        code = await asyncio.to_thread(main.run, words)
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return run


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


async def test_a_template_is_written_listed_shown_and_changed(nacre: Nacre, tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(CONFIG)
    made = await nacre(
        "template", "create", "shop", "-f", str(tmp_path / "shop.yaml"), "--cpus", "2", "--publish", "8080:80",
        "--vm-label", "tier=front", "--description", "Shops", "--label", "team=a",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.out.startswith("shop: created (tpl-")
    (titles, row) = rows((await nacre("template", "list")).out)
    assert titles[:6] == ["NAME", "PROJECT", "REVISION", "IMAGE", "CPUS", "MEMORY"]
    assert row[:6] == ["shop", "default", "1", "tiny", "2", "1GiB"]
    shown = (await nacre("template", "show", "shop")).out
    assert "image: tiny" in shown
    assert "restart: always" in shown
    config = json.loads((await nacre("template", "show", "shop", "-o", "json")).out)["config"]
    assert config["labels"] == {"tier": "front"}, "options go before the file"
    assert (config["placement"]["zones"], config["publish"][0]["host_port"]) == (["north"], 8080)
    changed = await nacre("template", "update", "shop", "--memory", "2GiB", "--clear", "publish", "--label", "team-")
    assert changed.out == "shop: revision 2\n"
    history = rows((await nacre("template", "revisions", "shop")).out)
    assert [line[0] for line in history] == ["REVISION", "2", "1"]
    diff = await nacre("template", "diff", "shop@1", "shop")
    assert diff.out.splitlines()[0].split("  ")[0] == "FIELD"
    assert ["memory_bytes", "1073741824", "2147483648"] in rows(diff.out)
    assert ["publish[0].host_port", "8080", "-"] in rows(diff.out)
    same = await nacre("template", "diff", "shop", "shop@2")
    assert (same.code, same.out) == (0, "")
    assert "are the same" in same.err
    assert (await nacre("template", "delete", "shop", "--yes")).out == "shop: deleted\n"
    assert (await nacre("template", "show", "shop")).code == exits.NOT_FOUND


async def test_an_instance_type_is_written_listed_shown_and_changed(nacre: Nacre) -> None:
    assert (
        await nacre("instance-type", "create", "small", "--cpus", "1", "--memory", "512MiB", "--platform")
    ).code == 0
    assert (await nacre("instance-type", "create", "large", "--cpus", "8", "--disk", "10GiB")).code == 0
    listed = rows((await nacre("instance-type", "list")).out)
    assert [line[0] for line in listed] == ["NAME", "large", "small"]
    assert listed[1][:5] == ["large", "default", "8", "-", "disk_bytes=10737418240"]
    assert "the platform" in (await nacre("instance-type", "show", "small")).out
    changed = await nacre("instance-type", "update", "small", "--cpus", "2", "--description", "Two", "--label", "a=b")
    assert changed.out == "small: revision 2\n"
    assert (await nacre("instance-type", "update", "small")).code == exits.USAGE
    assert (await nacre("instance-type", "delete", "small", "large", "-y")).out == "small: deleted\nlarge: deleted\n"


async def test_a_machine_is_made_of_layers_and_dry_run_says_of_which(nacre: Nacre) -> None:
    await nacre("template", "create", "shop", "--image", "tiny", "--cpus", "4", "--vm-label", "app=shop")
    await nacre("instance-type", "create", "small", "--cpus", "1", "--memory", "512MiB")
    words = ("vm", "create", "web", "--template", "shop", "--instance-type", "small", "--restart", "never")
    dry = await nacre(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert dry.out.splitlines()[:3] == [
        "would create web",
        "template shop revision 1",
        "instance type small revision 1",
    ]
    told = rows(dry.out)
    for line in (
        ["image", "tiny", "template"],
        ["cpus", "1", "instance-type"],
        ["memory_bytes", "536870912", "instance-type"],
        ["restart", "never", "request"],
        ["machine", "q35", "default"],
        ["labels.app", "shop", "template"],
    ):
        assert line in told
    assert json.loads((await nacre("vm", "list", "-o", "json")).out) == []
    assert (await nacre(*words)).code == 0
    shown = (await nacre("vm", "show", "web")).out
    assert "shop revision 1" in shown
    assert "small revision 1" in shown
    (found,) = json.loads((await nacre("vm", "list", "--filter", "template=shop", "-o", "json")).out)
    assert (found["name"], found["spec"]["restart"]) == ("web", "never")
    compared = await nacre("template", "diff", "shop", "--vm", "web")
    assert ["cpus", "4", "1"] in rows(compared.out)
    preview = await nacre("template", "preview", "shop@1", "--instance-type", "small")
    assert ["cpus", "1", "instance-type"] in rows(preview.out)


async def test_options_that_say_none_go_before_the_template(nacre: Nacre) -> None:
    await nacre("template", "create", "shop", "--image", "tiny", "--publish", "8080:80")
    made = await nacre(
        "vm", "create", "web", "--template", "shop", "--no-publish", "--no-nic", "--no-start", "-o", "json"
    )
    vm = json.loads(made.out)["resource"]
    assert (vm["spec"]["publish"], vm["spec"]["nics"], vm["desired"]) == ([], [], "stopped")


async def test_many_machines_are_made_at_once(nacre: Nacre, api: Api) -> None:
    await nacre("template", "create", "shop", "--image", "tiny")
    async with obedient_node(api.parts.requests.db):
        made = await nacre("vm", "create", "web-{n}", "--template", "shop", "--count", "3", "--wait")
    assert made.out.splitlines() == ["web-1: running", "web-2: running", "web-3: running"]
    again = await nacre("vm", "create", "web-{n}", "--template", "shop", "--count", "2", "--first-number", "3")
    assert again.code == exits.CONFLICT
    assert "web-3" in again.err
    assert (await nacre("vm", "create", "web", "--count", "101", "--image", "tiny")).code == exits.USAGE
    dry = await nacre("vm", "create", "db-{n}", "--image", "tiny", "--count", "5", "--dry-run")
    assert dry.out.splitlines()[0] == "would create 5 machines: db-1 to db-5"


async def test_a_machine_becomes_a_template(nacre: Nacre) -> None:
    await nacre("vm", "create", "web", "--image", "tiny", "--cpus", "3", "--no-start")
    assert (await nacre("template", "create", "like-web", "--from-vm", "web", "--memory", "1GiB")).code == 0
    config = json.loads((await nacre("template", "show", "like-web", "-o", "json")).out)["config"]
    assert (config["cpus"], config["memory_bytes"], config["nics"][0]["mac"]) == (3, 1 << 30, None)


async def test_what_a_template_lacks_is_said(nacre: Nacre) -> None:
    await nacre("template", "create", "bare", "--cpus", "1")
    assert "to be given with the machine: image" in (await nacre("template", "preview", "bare")).out
    refused = await nacre("vm", "create", "web", "--template", "bare")
    assert (refused.code, refused.err.splitlines()[0]) == (exits.USAGE, "nacre: template bare names no image")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cpus: many", "cpus: expected `int | null`"),
        ("[1, 2]", "has no fields"),
        ("sizes: 1", "unknown field"),
        ("memory: lots", "is not a size"),
        ("a: [", "neither YAML nor JSON: line 1, column 5: "),
        ("cpus: 1\n  memory: 2GiB\n", "line 2, column 9: mapping values are not allowed here"),
        ("memory: 1GiB\nmemory_bytes: 1GiB", "memory and memory_bytes are the same"),
    ],
)
async def test_a_file_that_is_no_configuration_is_refused(nacre: Nacre, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    ran = await nacre("template", "create", "shop", "-f", str(tmp_path / "wrong.yaml"))
    assert (ran.code, said in ran.err) == (exits.USAGE, True), ran.err


@pytest.mark.parametrize(
    "words",
    [
        ("template", "create", "shop", "-f", "/nowhere"),
        ("template", "diff", "shop"),
        ("template", "diff", "shop", "other", "--vm", "web"),
        ("template", "diff", "shop@x", "other"),
        ("template", "update", "shop"),
        ("vm", "create", "We{n}b", "--image", "tiny"),
        ("vm", "create", "web", "--template", "a/b"),
    ],
)
async def test_wrong_words_are_refused_here(nacre: Nacre, words: tuple[str, ...]) -> None:
    ran = await nacre(*words)
    assert ran.code == exits.USAGE, ran.err
    assert "hint: " in ran.err


async def test_names_are_completed(nacre: Nacre) -> None:
    await nacre("template", "create", "shop")
    await nacre("instance-type", "create", "small", "--cpus", "1")
    assert "shop" in (await nacre("__complete", "template", "show", "")).out.split()
    assert "small" in (await nacre("__complete", "instance-type", "show", "")).out.split()
    assert "shop" in (await nacre("__complete", "vm", "create", "web", "--template", "")).out.split()


@pytest.mark.parametrize(
    "text",
    [
        "image: tiny\nmemory: 256MiB\ndisk: 1GiB\n",
        "image: tiny\nmemory_bytes: 268435456\ndisk_bytes: 1073741824\n",
        "image: tiny\nmemory_bytes: 256MiB\ndisk: 1GiB\n",
    ],
)
async def test_templates_and_machines_are_written_alike(nacre: Nacre, tmp_path: Path, text: str) -> None:
    (tmp_path / "one.yaml").write_text(text)
    for words in (("template", "create", "one"), ("vm", "create", "one", "--no-start")):
        ran = await nacre(*words, "-f", str(tmp_path / "one.yaml"))
        assert (ran.code, ran.err) == (0, "")
    config = json.loads((await nacre("template", "show", "one", "-o", "json")).out)["config"]
    spec = json.loads((await nacre("vm", "show", "one", "-o", "json")).out)["spec"]
    for given in (config, spec):
        assert (given["memory_bytes"], given["disk_bytes"]) == (256 << 20, 1 << 30)


async def test_memory_with_fields_of_its_own_is_no_size(nacre: Nacre, tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text("memory_bytes: 256MiB\nmemory: {max_bytes: 512MiB}\n")
    ran = await nacre("template", "create", "one", "-f", str(tmp_path / "one.yaml"))
    assert (ran.code, ran.err) == (0, "")
    config = json.loads((await nacre("template", "show", "one", "-o", "json")).out)["config"]
    assert (config["memory_bytes"], config["memory"]["max_bytes"]) == (256 << 20, 512 << 20)

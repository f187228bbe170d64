import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nacre.cli import exits
from support.api_stub import TOKEN, ApiStub
from support.command_line import Run


def test_help_tells_commands_exit_codes_and_environment(run: Run) -> None:
    ran = run("--help")
    assert ran.code == exits.OK
    for word in ("vm", "image", "up", "down", "--project", "NACRE_TOKEN", "5 conflict"):
        assert word in ran.out


@pytest.mark.parametrize(
    "words",
    [
        ("--bad",),
        ("mv",),
        ("vm", "creat"),
        ("vm", "create"),
        ("vm", "list", "--bad"),
        ("vm", "list", "-o", "xml"),
        ("vm", "create", "a/b", "--image", "tiny"),
        ("vm", "create", "a", "--image", "tiny", "--memory", "512"),
        ("vm", "create", "a", "--image", "tiny", "--disk", "-5GiB"),
        ("vm", "create", "a", "--image", "tiny", "--cpus", "-1"),
        ("vm", "create", "a", "--image", "tiny", "--cpus", "many"),
        ("vm", "create", "a", "--image", "tiny", "--publish", "80"),
        ("vm", "create", "a", "--image", "tiny", "--label", "x"),
        ("vm", "create", "a", "--image", "tiny", "--wait", "--timeout", "soon"),
        ("vm", "show"),
        ("vm", "show", "../etc"),
        ("grant", "create", "ada", "editor"),
        ("token", "create", "ci", "--action", "everything"),
        ("up", "--listen", "7480"),
    ],
)
def test_wrong_usage_is_one_line_and_a_hint(run: Run, words: tuple[str, ...]) -> None:
    ran = run(*words)
    assert ran.code == exits.USAGE
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("nacre: ")
    assert lines[1].startswith("hint: ")
    assert ran.out == ""


def test_who_is_not_logged_in_is_told_how(run: Run) -> None:
    ran = run("vm", "list")
    assert ran.code == exits.DENIED
    assert "nacre login" in ran.err


def test_a_wrong_token_is_denied(nacre: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_TOKEN", "wrong")
    assert nacre("vm", "list").code == exits.DENIED


def test_a_server_that_is_not_there_is_unreachable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_URL", "http://127.0.0.1:1")
    ran = run("vm", "list")
    assert ran.code == exits.UNREACHABLE
    assert ran.err.count("\n") == 2


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, 2), (401, 4), (403, 4), (404, 3), (409, 5), (412, 5), (413, 1), (422, 1), (429, 1), (500, 1), (504, 6)],
)
def test_the_exit_code_says_what_sort_of_no_it_was(nacre: Run, stub: ApiStub, status: int, code: int) -> None:
    stub.answers = [stub.problem(status, "some_code", "some detail", "some hint")]
    ran = nacre("vm", "show", "web")
    assert (ran.code, ran.out) == (code, "")
    assert ran.err.startswith("nacre: some detail\nhint: some hint")


def test_what_a_server_says_cannot_steer_the_terminal(nacre: Run, stub: ApiStub) -> None:
    stub.answers = [stub.problem(409, "x", "evil\x1b[2J\nline", "hint\x07")]
    ran = nacre("vm", "show", "web")
    assert "\x1b" not in ran.err
    assert ran.err.count("\n") == 2


def test_global_options_stand_before_or_after_the_verb(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    before, after = nacre("-o", "json", "vm", "list"), nacre("vm", "list", "-o", "json")
    assert json.loads(before.out)[0]["name"] == "web"
    assert before.out == after.out


def test_the_project_comes_from_option_then_environment_then_default(
    nacre: Run, stub: ApiStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    nacre("vm", "list")
    monkeypatch.setenv("NACRE_PROJECT", "shop")
    nacre("vm", "list")
    nacre("vm", "list", "--project", "blog")
    nacre("vm", "list", "-A")
    assert [query["project"] for _, _, query, _ in stub.requests] == ["default", "shop", "blog", "*"]


def test_output_into_a_closed_pipe_is_no_traceback(stub: ApiStub, tmp_path: Path) -> None:
    for number in range(3000):
        stub.add_vm(f"vm{number}")
    script = f"{sys.executable} -m nacre.cli.main vm list | head -1"
    environment = {"NACRE_URL": stub.url, "NACRE_TOKEN": "nacre_secret", "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ran.stdout.startswith("NAME")
    assert ran.stderr == ""


@pytest.mark.parametrize(
    "words", ["vm list", "vm list -o json", "vm log web", "--help", "vm create --help", "completion bash"]
)
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_output_that_cannot_be_written_is_one_line(stub: ApiStub, tmp_path: Path, words: str, where: str) -> None:
    stub.add_vm("web")
    ran = in_a_shell(f"{words} {where}", stub, tmp_path)
    assert ran.returncode == exits.ERROR
    said = "cannot write the output: No space left on device" if where == ">/dev/full" else "standard output is closed"
    assert ran.stderr.startswith("nacre: ")
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_nothing_is_done_without_an_output_to_say_it_on(stub: ApiStub, tmp_path: Path) -> None:
    stub.add_vm("web")
    assert in_a_shell("vm delete web --yes >&-", stub, tmp_path).returncode == exits.ERROR
    assert stub.vm("web") is not None


@pytest.mark.parametrize("where", ["<&-", "2>&-", "<&- 2>&-"])
def test_other_streams_may_be_closed(stub: ApiStub, tmp_path: Path, where: str) -> None:
    stub.add_vm("web")
    ran = in_a_shell(f"vm start web --wait {where}", stub, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (exits.OK, "web: running\n", "")


def in_a_shell(words: str, stub: ApiStub, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a line with redirections."""
    return subprocess.run(
        ["sh", "-c", f"{sys.executable} -m nacre.cli.main {words}"],
        env={"NACRE_URL": stub.url, "NACRE_TOKEN": TOKEN, "HOME": str(home), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("token", ["nacre_“quoted”", "ü", "two words", "line\nfeed", "\udcff"])
def test_what_can_be_no_token_is_refused_before_it_is_sent(
    nacre: Run, stub: ApiStub, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("NACRE_TOKEN", token)
    for ran in (nacre("vm", "list"), nacre("login", stub.url, "--token", token)):
        assert ran.code == exits.USAGE
        assert ran.err.startswith("nacre: the token has characters that no token has\nhint: was it copied with quotes")
        assert ran.err.count("\n") == 2
        assert token not in ran.err
    assert stub.requests == []


def test_help_needs_neither_an_http_client_nor_a_server() -> None:
    script = (
        "import sys\nfrom nacre.cli import main\ncode = main.run(['--help'])\n"
        "heavy = {'httpx2', 'litestar', 'sqlalchemy', 'websockets', 'aiohttp', 'nacre.control', 'nacre.agent'}\n"
        "sys.exit(','.join(heavy & set(sys.modules)) or code)"
    )
    began = time.monotonic()
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert time.monotonic() - began < 5

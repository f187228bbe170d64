import io
from pathlib import Path

import pytest

from nacre.cli import exits, profile
from support.api_stub import CLAIM, TOKEN, ApiStub
from support.command_line import Run


def test_a_claim_becomes_a_context_that_works(run: Run, stub: ApiStub, alone: Path) -> None:
    ran = run("login", stub.url, "--claim", CLAIM)
    assert (ran.code, ran.out) == (0, f"logged in to {stub.url} as admin (context local)\n")
    assert profile.load(alone).contexts["local"].token == TOKEN
    assert TOKEN not in ran.out + ran.err
    assert run("vm", "list").code == 0


def test_a_claim_is_read_from_its_file(run: Run, stub: ApiStub, tmp_path: Path) -> None:
    (tmp_path / "claim").write_text(CLAIM + "\n")
    assert run("login", stub.url, "--claim-file", str(tmp_path / "claim")).code == 0
    ran = run("login", stub.url, "--claim-file", str(tmp_path / "claim"))
    assert ran.code == exits.DENIED
    assert run("vm", "list").code == 0  # the context that worked is still there


def test_a_token_comes_by_option_or_stdin(run: Run, stub: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("login", stub.url, "--token", TOKEN, "--name", "one").code == 0
    monkeypatch.setattr("sys.stdin", io.StringIO(TOKEN + "\n"))
    assert run("login", stub.url, "--token", "-", "--name", "two").code == 0
    assert [line.split()[0] for line in run("context", "list").out.splitlines()[1:]] == ["one", "*"]


def test_a_wrong_token_leaves_no_context(run: Run, stub: ApiStub, alone: Path) -> None:
    assert run("login", stub.url, "--token", "wrong").code == exits.DENIED
    assert not alone.exists()


@pytest.mark.parametrize("url", ["127.0.0.1:7480", "ftp://x", "http://user:pass@x"])
def test_what_is_no_address_is_refused(run: Run, url: str) -> None:
    assert run("login", url, "--token", "x").code == exits.USAGE


def test_contexts_are_used_shown_and_forgotten(run: Run, stub: ApiStub) -> None:
    stub.projects.append("shop")
    run("login", stub.url, "--token", TOKEN, "--name", "one")
    run("login", stub.url, "--token", TOKEN, "--name", "two")
    assert run("context", "use", "one", "--project", "shop").code == 0
    shown = run("context", "show").out
    assert "one" in shown
    assert "shop" in shown
    assert TOKEN not in shown
    run("vm", "list")
    assert stub.requests[-1][2]["project"] == "shop"
    assert run("context", "delete", "one", "--yes").code == 0
    assert run("context", "show", "one").code == exits.NOT_FOUND
    assert run("vm", "list").code == exits.DENIED  # no current context any more
    assert run("vm", "list", "--context", "two").code == 0


def test_a_stored_token_is_shown_to_no_other_address(run: Run, stub: ApiStub, monkeypatch: pytest.MonkeyPatch) -> None:
    run("login", "http://localhost:" + stub.url.rpartition(":")[2], "--token", TOKEN)
    stub.requests.clear()
    monkeypatch.setenv("NACRE_URL", stub.url)
    assert run("vm", "list").code == exits.DENIED
    assert "Authorization" not in stub.requests[0][3]


def test_whoami_says_who_and_what(nacre: Run) -> None:
    assert "admin" in nacre("whoami").out


def test_who_can_use_one_project_gets_it_for_the_context(run: Run, stub: ApiStub) -> None:
    stub.projects = ["shop"]
    ran = run("login", stub.url, "--token", TOKEN)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == f"logged in to {stub.url} as admin (context local, project shop)\n"
    run("vm", "list")
    assert stub.requests[-1][2]["project"] == "shop"


@pytest.mark.parametrize("projects", [["default"], ["blog", "default"], []])
def test_who_can_use_the_default_project_is_asked_nothing(run: Run, stub: ApiStub, projects: list[str]) -> None:
    stub.projects = projects
    ran = run("login", stub.url, "--token", TOKEN)
    assert (ran.code, ran.out, ran.err) == (0, f"logged in to {stub.url} as admin (context local)\n", "")


def test_who_can_use_several_projects_is_told_how_to_choose(run: Run, stub: ApiStub, alone: Path) -> None:
    stub.projects = ["shop", "blog"]
    ran = run("login", stub.url, "--token", TOKEN)
    assert ran.code == 0
    assert "blog, shop" in ran.err
    assert "nacre context use local --project blog" in ran.err
    assert profile.load(alone).contexts["local"].project == ""
    assert run("login", stub.url, "--token", TOKEN, "--project", "shop").err == ""
    assert profile.load(alone).contexts["local"].project == "shop"


def test_a_context_gets_no_project_that_is_not_there(run: Run, stub: ApiStub, alone: Path) -> None:
    run("login", stub.url, "--token", TOKEN)
    ran = run("context", "use", "local", "--project", "nope")
    assert ran.code == exits.NOT_FOUND
    assert "there is no project nope" in ran.err
    assert profile.load(alone).contexts["local"].project == ""


def test_a_project_is_taken_on_trust_while_nobody_can_be_asked(run: Run, alone: Path) -> None:
    profile.save(alone, profile.Profile().put("away", profile.Context(url="http://127.0.0.1:1", token=TOKEN)))
    ran = run("context", "use", "away", "--project", "shop")
    assert (ran.code, ran.out) == (0, "using away (http://127.0.0.1:1, project shop)\n")
    assert "could not be checked" in ran.err


def test_a_default_project_that_is_not_there_leads_to_one_that_is(nacre: Run, stub: ApiStub) -> None:
    stub.answers = [stub.problem(404, "project_not_found", "there is no project default", "list yours")]
    ran = nacre("vm", "list")
    assert ran.code == exits.NOT_FOUND
    assert (
        "hint: list yours; say --project NAME, or once and for all: nacre context use CONTEXT --project NAME" in ran.err
    )

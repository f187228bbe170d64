"""Orders from the shell."""

import json
from pathlib import Path

import pytest

from nacre.agent import main as agent
from nacre.agent.simulation.__main__ import main
from nacre.agent.simulation.options import HELP


def test_nobody_at_the_socket_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.sock"), "status"]) == 1
    assert "no simulation answers" in capsys.readouterr().err


def test_an_order_that_there_is_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.sock"), "dance"])
    assert "silence" in capsys.readouterr().err


def test_the_help_of_the_agent_explains_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        agent.read_settings(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for setting, text in HELP.items():
        assert f"--{setting.replace('_', '-')}" in shown
        assert text.split()[0] in shown


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--simulate", "-1"), ("--simulate-failure-rate", "2"), ("--simulate-zones", "nowhere"), ("--simulate", "many")],
)
def test_options_that_cannot_be_used_end_the_program_with_a_hint(
    flag: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = ["--data-dir", str(tmp_path / "data"), "--run-dir", str(tmp_path / "run")]
    assert agent.run(["--simulate", "2", *folders, flag, value]) in {1, 2}
    shown = capsys.readouterr().err
    assert "nacre-agent:" in shown
    assert len(shown.strip().splitlines()) >= 2
    assert json.dumps("Traceback")[1:-1] not in shown

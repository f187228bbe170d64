"""A server of our own, and a way to run the command line against it in this process."""

from collections.abc import Generator
from pathlib import Path

import pytest

from nacre.cli import main
from support.api_stub import TOKEN, ApiStub, api_stub
from support.command_line import Ran, Run


@pytest.fixture
def stub() -> Generator[ApiStub]:
    with api_stub() as running:
        yield running


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No profile and no environment of whoever runs the tests. Returns where the profile will be."""
    for name in ("NACRE_URL", "NACRE_TOKEN", "NACRE_PROJECT", "NACRE_CONTEXT", "NACRE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "nacre" / "config.toml"


@pytest.fixture
def run(alone: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    def nacre(*words: str) -> Ran:
        code = main.run(words)
        captured = capfdbinary.readouterr()
        return Ran(code, captured.out.decode(), captured.err.decode())

    return nacre


@pytest.fixture
def nacre(run: Run, stub: ApiStub, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command line, logged in to the server through the environment."""
    monkeypatch.setenv("NACRE_URL", stub.url)
    monkeypatch.setenv("NACRE_TOKEN", TOKEN)
    return run

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nacre.cli import exits
from support.api_stub import TOKEN, ApiStub
from support.pty_program import PtyProgram


@pytest.fixture
def environment(stub: ApiStub, tmp_path: Path) -> Mapping[str, str]:
    return os.environ | {
        "NACRE_URL": stub.url,
        "NACRE_TOKEN": TOKEN,
        "NACRE_CONFIG": str(tmp_path / "none"),
        "TERM": "xterm",
        "COLUMNS": "100",
    }


def nacre(*words: str) -> list[str]:
    return [sys.executable, "-m", "nacre.cli.main", *words]


def test_a_person_is_asked_before_a_machine_is_deleted(stub: ApiStub, environment: Mapping[str, str]) -> None:
    stub.add_vm("web")
    with PtyProgram(nacre("vm", "delete", "web"), environment) as terminal:
        terminal.expect(b"delete web with disks, for good? [y/N] ")
        terminal.press(b"n\n")
        assert terminal.leave() == exits.USAGE
    assert stub.vm("web") is not None
    with PtyProgram(nacre("vm", "delete", "web"), environment) as terminal:
        terminal.expect(b"[y/N] ")
        terminal.press(b"y\n")
        assert terminal.leave() == exits.OK
    assert stub.vm("web") is None


def test_yes_asks_nothing(stub: ApiStub, environment: Mapping[str, str]) -> None:
    stub.add_vm("web")
    with PtyProgram(nacre("vm", "delete", "web", "--yes", "--wait"), environment) as terminal:
        terminal.expect(b"web: deleted")
        assert terminal.leave() == exits.OK


def test_waiting_for_several_shows_one_line_and_no_trouble(stub: ApiStub, environment: Mapping[str, str]) -> None:
    stub.add_vm("a")
    stub.add_vm("b")
    with PtyProgram(nacre("vm", "start", "a", "b", "--wait"), environment) as terminal:
        terminal.expect(b"a: running")
        terminal.expect(b"b: running")
        assert terminal.leave() == exits.OK


def test_an_upload_shows_a_bar(stub: ApiStub, environment: Mapping[str, str], tmp_path: Path) -> None:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(b"x" * (8 << 20))
    with PtyProgram(nacre("image", "import", "debian", str(disk)), environment) as terminal:
        terminal.expect(b"sending")
        terminal.expect(b"debian: ready (8MiB)")
        assert terminal.leave() == exits.OK


def test_a_table_on_a_terminal_fits_the_window(stub: ApiStub, environment: Mapping[str, str]) -> None:
    stub.add_vm("web")
    with PtyProgram(nacre("vm", "list"), environment) as terminal:
        terminal.expect(b"NAME")
        terminal.expect(b"running")
        assert terminal.leave() == exits.OK

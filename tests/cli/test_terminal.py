import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from nacre.cli import exits
from nacre.cli.terminal import Screen
from support.api_stub import TOKEN, ApiStub
from support.pty_program import PtyProgram

CONSOLE = [sys.executable, "-m", "nacre.cli.main", "vm", "console", "web"]


@pytest.fixture
def environment(stub: ApiStub, tmp_path: Path) -> Mapping[str, str]:
    stub.add_vm("web")
    return os.environ | {"NACRE_URL": stub.url, "NACRE_TOKEN": TOKEN, "NACRE_CONFIG": str(tmp_path / "none")}


def piped(environment: Mapping[str, str], typed: bytes, *words: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CONSOLE, *words], input=typed, env=environment, capture_output=True, timeout=30, check=False
    )


def test_keys_go_to_the_guest_until_the_detach_key(environment: Mapping[str, str]) -> None:
    with PtyProgram(CONSOLE, environment) as terminal:
        terminal.expect(b"detach with ^]")
        terminal.expect(b"greetings\r\n")
        terminal.press(b"hello\x03\n")  # ^C is for the guest
        terminal.expect(b"HELLO\x03")
        terminal.press(b"\x1d")
        terminal.expect(b"detached")
        assert terminal.leave() == exits.OK
        assert terminal.settings() == terminal.settings_before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_the_terminal_is_given_back_when_we_are_ended(environment: Mapping[str, str], number: signal.Signals) -> None:
    with PtyProgram(CONSOLE, environment) as terminal:
        terminal.expect(b"greetings")
        assert terminal.settings() != terminal.settings_before
        terminal.process.send_signal(number)
        assert terminal.leave() == exits.KILLED + number
        assert terminal.settings() == terminal.settings_before
        assert terminal.rest() == b""


def test_a_console_that_breaks_is_connected_again_without_repeating(
    environment: Mapping[str, str], stub: ApiStub
) -> None:
    with PtyProgram(CONSOLE, environment) as terminal:
        terminal.expect(b"greetings\r\n")
        terminal.press(b"drop\n")
        terminal.expect(b"trying again")
        terminal.expect(b"connected again")
        terminal.press(b"still there\n")
        terminal.expect(b"STILL THERE")
        assert b"greetings" not in terminal.seen
        assert stub.consoles == 2


def test_a_console_that_the_server_closes_says_why(environment: Mapping[str, str]) -> None:
    with PtyProgram(CONSOLE, environment) as terminal:
        terminal.expect(b"greetings")
        terminal.press(b"quit\n")
        terminal.expect(b"the machine stopped")
        assert terminal.leave() == exits.OK


def test_piped_input_is_typed_and_its_answer_is_printed(environment: Mapping[str, str]) -> None:
    ran = piped(environment, b"uname\n", "--linger", "300ms")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"greetings\r\nUNAME\n", b"")


def test_no_input_shows_the_scrollback(environment: Mapping[str, str]) -> None:
    ran = piped(environment, b"", "--linger", "300ms")
    assert (ran.returncode, ran.stdout) == (0, b"greetings\r\n")


def test_a_detach_key_in_a_pipe_is_just_a_byte(environment: Mapping[str, str]) -> None:
    assert piped(environment, b"a\x1db\n", "--linger", "300ms").stdout == b"greetings\r\nA\x1dB\n"


def test_a_console_of_no_machine_is_not_found(environment: Mapping[str, str], stub: ApiStub) -> None:
    stub.vms.clear()
    assert piped(environment, b"").returncode == exits.NOT_FOUND


@pytest.mark.parametrize(
    ("tail", "scrollback", "fresh"),
    [
        (b"", b"all of it", b"all of it"),
        (b"seen", b"before seen new", b" new"),
        (b"seen", b"before seen", b""),
        (b"gone", b"quite another text", b"quite another text"),
    ],
)
def test_a_repeated_scrollback_is_shown_from_where_it_broke(tail: bytes, scrollback: bytes, fresh: bytes) -> None:
    screen = Screen(tail=tail, resumed=True)
    assert screen.fresh(scrollback) == fresh
    assert screen.fresh(b"more") == b"more"

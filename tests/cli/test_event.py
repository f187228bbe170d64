import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from support.api_stub import TOKEN, ApiStub, event
from support.command_line import Run


def test_the_last_events_are_listed_oldest_first(nacre: Run, stub: ApiStub) -> None:
    stub.events = [event(number, f"event {number}") for number in range(1, 20)]
    lines = nacre("event", "list", "--limit", "3").out.splitlines()
    assert [line.split()[0] for line in lines] == ["CURSOR", "17", "18", "19"]


def heed_interrupts() -> None:
    """A shell starts its background jobs, and so whatever runs these tests, with SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_following_prints_a_line_for_each_event_until_interrupted(stub: ApiStub, tmp_path: Path) -> None:
    stub.events = [event(1)]
    environment = os.environ | {"NACRE_URL": stub.url, "NACRE_TOKEN": TOKEN, "NACRE_CONFIG": str(tmp_path / "none")}
    words = [sys.executable, "-m", "nacre.cli.main", "event", "list", "--follow", "-o", "json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, env=environment, stdout=pipe, stderr=pipe, preexec_fn=heed_interrupts) as following:
        assert following.stdout is not None
        assert json.loads(following.stdout.readline())["cursor"] == 1
        stub.events.append(event(2))
        assert json.loads(following.stdout.readline())["cursor"] == 2
        following.send_signal(signal.SIGINT)
        assert following.wait(10) == 130
        assert following.stderr is not None
        assert following.stderr.read() == b""

"""`nacre-agent check` as it is called."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nacre.protocol import join
from nacre.protocol.join import Join
from support.platform import free_port


def check(tmp_path: Path, *words: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nacre.agent.main", *words, "--data-dir", str(tmp_path / "data")]
    argv += ["--run-dir", str(tmp_path / "run")]
    env = {**os.environ, **({"PATH": path} if path is not None else {})}
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, check=False)


@pytest.mark.parametrize("words", [["check"], ["--check"]])
def test_it_says_how_every_check_went_and_leaves_no_folders(tmp_path, words):
    done = check(tmp_path, *words, "--hypervisors", "fake")
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "this host can be a node"
    assert done.stdout.startswith("ok    python")
    assert done.returncode == 0
    assert not (tmp_path / "data").exists()


def test_it_tells_programs_and_fails_where_something_is_missing(tmp_path):
    empty = tmp_path / "bin"
    empty.mkdir()
    done = check(tmp_path, "check", "--json", path=str(empty))
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["qemu"]["level"] == "fail"
    assert "qemu-system-x86_64 is not installed" in found["qemu"]["message"]
    assert found["qemu-img"]["level"] == "fail"
    assert found["qemu"]["hint"]


@pytest.mark.host
def test_acceleration_is_proven_or_refuted_rather_than_guessed(tmp_path):
    assert shutil.which("qemu-system-x86_64")
    done = check(tmp_path, "check", "--json")
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert found["qemu"]["level"] == "ok"
    assert found["acceleration"]["message"].startswith(("kvm, proven", "none, so machines are slow"))


def test_a_control_plane_that_cannot_be_reached_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as there:
        here, gone = f"127.0.0.1:{there.getsockname()[1]}", f"127.0.0.1:{free_port()}"
        text = join.encode(Join(gateway=f"{here},{gone}", ca="ab" * 32, secret="s"))
        file = tmp_path / "join"
        file.write_text(text)
        done = check(tmp_path, "check", "--hypervisors", "fake", "--join-file", str(file))
    assert f"{here} answers" in done.stdout
    assert f"{gone}: Connect" in done.stdout
    assert done.returncode == 1
    assert text not in done.stdout


def test_settings_that_cannot_be_used_are_said_as_always(tmp_path):
    done = check(tmp_path, "check", "--hypervisors", "hyperdrive")
    assert (done.returncode, done.stdout) == (2, "")
    assert "hyperdrive" in done.stderr

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.api_stub import ApiStub
from support.command_line import Run


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_printed_for_each_shell(run: Run, shell: str) -> None:
    ran = run("completion", shell)
    assert ran.code == 0
    assert "nacre" in ran.out
    assert "__complete" in ran.out


def test_names_of_machines_and_images_come_from_the_server(nacre: Run, stub: ApiStub) -> None:
    stub.add_vm("web")
    stub.add_vm("db")
    assert {"web", "db"} <= set(nacre("__complete", "vm", "start", "web", "").out.split())


def test_completion_keeps_quiet_when_the_server_is_away(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NACRE_URL", "http://127.0.0.1:1")
    ran = run("__complete", "vm", "start", "")
    assert ran.err == ""
    assert "web" not in ran.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("nacre vm sta", "start"),
        ("nacre vm start w", "web"),
        ("nacre vm create x --image ", "tiny"),
        ("nacre image up", "update"),
        ("nacre image update t", "tiny"),
    ],
)
def test_bash_completes_words_and_names(stub: ApiStub, tmp_path: Path, line: str, wanted: str) -> None:
    stub.add_vm("web")
    program = tmp_path / "nacre"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m nacre.cli.main "$@"\n')
    program.chmod(0o755)
    words = line.split(" ")
    script = (
        'eval "$(nacre completion bash)"\n'
        f"COMP_WORDS=({' '.join(repr(word) for word in words)}) COMP_CWORD={len(words) - 1} COMP_LINE={line!r}\n"
        'COMP_POINT=${#COMP_LINE} _nacre; printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "NACRE_URL": stub.url,
        "NACRE_TOKEN": "nacre_secret",
    }
    stub.add_image("tiny")
    ran = subprocess.run(
        ["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert wanted in ran.stdout.split(), ran.stderr

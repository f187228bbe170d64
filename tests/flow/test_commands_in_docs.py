"""The commands in the documentation are run, in order, as a reader would."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from nacre.agent.settings import load
from support.platform import free_port

pytestmark = pytest.mark.host

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
EXPECTED = re.compile(r"\s+# exit (\d+)$")


@dataclass(frozen=True)
class Command:
    """One line that a reader types, and how it is said to end."""

    text: str
    status: int


def commands(page: str) -> list[Command]:
    """Every `$ ` line in the console blocks of a page. `# exit N` says that it ends with N."""
    found: list[Command] = []
    for block in BLOCK.findall((ROOT / page).read_text()):
        for line in block.splitlines():
            text = line.removeprefix("$ ")
            expected = EXPECTED.search(text)
            found.append(Command(EXPECTED.sub("", text), int(expected.group(1)) if expected else 0))
    return found


@pytest.mark.timeout(300)
def test_the_tutorial_works_word_for_word(tmp_path: Path) -> None:
    """Only the ports and the data directory differ from what is written."""
    rest, page = free_port(), free_port()
    state = tmp_path / "state"
    env = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "config")}
    steps: list[str] = []
    for command in commands("docs/tutorial.md"):
        text = (
            command.text.replace(".nacre/tutorial", str(state))
            .replace("127.0.0.1:7480", f"127.0.0.1:{rest}")
            .replace("127.0.0.1:8080", f"127.0.0.1:{page}")
        )
        if "--detach" in text:
            text += f" --listen 127.0.0.1:{rest}"
        steps.append(f"echo {quoted('$ ' + text)}\n{text}\n{check(command.status, text)}")
    script = "\n".join(steps)
    try:
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        assert "hello" in done.stdout.lower()
    finally:
        subprocess.run(
            [str(ROOT / ".venv/bin/nacre"), "down", "--data", str(state), "--vms"],
            env=env,
            capture_output=True,
            timeout=60,
        )


def check(status: int, text: str) -> str:
    """Shell that ends the script unless the last command ended with `status`."""
    return f'got=$?; [ $got = {status} ] || {{ echo "exit $got, not {status}:" {quoted(text)}; exit 99; }}'


def quoted(text: str) -> str:
    """`text` as one word of shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def test_every_make_target_in_the_readme_and_the_guides_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    named: set[str] = set()
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")]:
        named |= set(re.findall(r"(?:`|\$ )make ([a-z]+)", page.read_text()))
    assert named
    assert named <= targets


@pytest.mark.timeout(300)
def test_the_demo_shows_a_page_from_a_real_guest_and_can_be_removed(tmp_path: Path) -> None:
    rest, page = free_port(), free_port()
    state = tmp_path / "demo"
    env = {
        **os.environ,
        "DEMO_DIR": os.path.relpath(state, ROOT),
        "DEMO_LISTEN": f"127.0.0.1:{rest}",
        "DEMO_PAGE": f"127.0.0.1:{page}",
    }
    try:
        done = subprocess.run(
            ["scripts/demo.sh"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        assert "hello" in done.stdout.lower()
        assert "vm.started" in done.stdout
        assert "Remove everything" in done.stdout
    finally:
        gone = subprocess.run(
            [str(ROOT / ".venv/bin/nacre"), "down", "--data", str(state), "--vms"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert gone.returncode == 0, gone.stderr
    left = subprocess.run(["pgrep", "-af", str(state)], capture_output=True, text=True)
    assert left.stdout == ""
    assert not load(state / "agent.toml", {}, {}).run.exists()

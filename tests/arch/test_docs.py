"""Commands that the documentation names exist, with the options that it gives them."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
GENERATED = {"cli.md"}
_INLINE = re.compile(r"`(nacre (?!-)[^`]+)`")
_BLOCK_LINE = re.compile(r"^(?:\$ )?(nacre [a-z][^\n]*)$", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for page in PAGES:
        if page.name in GENERATED:
            continue
        text = page.read_text()
        found += [(page.name, only_ours(line)) for line in _INLINE.findall(text) + _BLOCK_LINE.findall(text)]
    return sorted(set(found))


def only_ours(line: str) -> str:
    """The part of a line of shell before comments, pipes and further commands."""
    return re.split(r" #| \| | && ", line)[0].strip(" &")


@cache
def help_of(words: tuple[str, ...]) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "nacre.cli.main", *words, "--help"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ran.stdout if ran.returncode == 0 else ""


def verbs_of(words: list[str]) -> tuple[str, ...]:
    """The leading words that are commands: at most three, all plain lower case."""
    plain: list[str] = []
    for word in words[1:4]:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        plain.append(word)
    while plain and not help_of(tuple(plain)).startswith(f"Usage: nacre {' '.join(plain)}"):
        plain.pop()
    return tuple(plain)


def test_the_documentation_names_commands() -> None:
    assert len(commands()) > 40


@pytest.mark.parametrize(("page", "line"), commands(), ids=lambda value: value[:60])
def test_a_command_in_the_documentation_exists_with_its_options(page: str, line: str) -> None:
    words = shlex.split(line.replace("…", "X"))
    verbs = verbs_of(words)
    assert verbs, f"{page}: {line}"
    shown = help_of(verbs)
    assert "Commands" not in shown or len(words) == len(verbs) + 1, f"{page}: {line} is not a command but a group"
    for word in words[len(verbs) + 1 :]:
        if word.startswith("--"):
            assert word.split("=")[0] in shown, f"{page}: {line}: no option {word}"

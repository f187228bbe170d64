"""Commands that the documentation names exist, with the options that it gives them."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest

from nacre.cli.reference import page

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
GENERATED = {"cli.md"}
_INLINE = re.compile(r"`(nacre (?!-)[^`]+)`")
_PLACE = re.compile(r"\{[^}]*\}")
_BLOCK_LINE = re.compile(r"^(?:\$ )?(nacre [a-z][^\n]*)$", re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """What the pages name, and what hints in the code tell people to type."""
    found: list[tuple[str, str]] = []
    for source in sorted((ROOT / "src").glob("**/*.py")):
        named = _INLINE.findall(source.read_text())
        found += [(source.name, only_ours(_PLACE.sub("X", line))) for line in named if "\n" not in line]
    for written in PAGES:
        if written.name in GENERATED:
            continue
        text = written.read_text()
        found += [(written.name, only_ours(line)) for line in _INLINE.findall(text) + _BLOCK_LINE.findall(text)]
    return sorted(set(found))


def only_ours(line: str) -> str:
    """The part of a line of shell before comments, pipes and further commands."""
    return re.split(r" #| \| | && ", line)[0].strip(" &")


@cache
def reference() -> dict[str, str]:
    """What the reference page says of each command; of "" what holds for all."""
    head, *sections = page().split("\n## `")
    found = {"": head}
    for section in sections:
        command, _, text = section.partition("`")
        found[command.removeprefix("nacre ")] = text
    return found


def verbs_of(words: list[str]) -> str:
    """The leading words that are a command, as many as there are."""
    for count in range(min(3, len(words) - 1), 0, -1):
        if (verbs := " ".join(words[1 : count + 1])) in reference():
            return verbs
    return ""


def test_the_documentation_names_commands() -> None:
    assert len(commands()) > 40


@pytest.mark.parametrize(("place", "line"), commands(), ids=lambda value: value[:60])
def test_a_command_that_people_are_told_of_exists_with_its_options(place: str, line: str) -> None:
    words = shlex.split(line)
    verbs = verbs_of(words)
    assert verbs, f"{place}: {line}"
    rest = words[len(verbs.split()) + 1 :]
    is_group = any(command.startswith(f"{verbs} ") for command in reference())
    assert not is_group or rest in ([], ["…"]), f"{place}: {line} is not a command but a group"
    for word in rest:
        if word.startswith("--"):
            option = word.split("=")[0]
            assert option in reference()[verbs] + reference()[""], f"{place}: {line}: no option {option}"

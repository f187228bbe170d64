from pathlib import Path

from nacre.cli import reference

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_documented_commands_are_those_that_there_are() -> None:
    assert PAGE.read_text() == reference.page(), "python -m nacre.cli.reference > docs/reference/cli.md"


def test_every_command_that_scripts_rely_on_is_there() -> None:
    verbs = {
        "vm": "create list show start stop reboot reset pause resume delete console log events update",
        "image": "list import show delete build",
        "node": "list show cordon uncordon allow-teardown delete",
        "operation": "list show wait cancel",
        "context": "list use show delete",
        "project": "create list show update delete",
        "token": "create list revoke",
        "event": "list",
    }
    text = reference.page()
    for noun, words in verbs.items():
        for verb in words.split():
            assert f"## `nacre {noun} {verb}`" in text
    assert "## `nacre node token create`" in text

"""The page of the documentation that lists every command: `python -m nacre.cli.reference > docs/reference/cli.md`.

Made from the command line itself, so that it cannot be out of step; a test compares the two.
"""

import re
import sys

from nacre.cli.main import EPILOGUE, HELP, build

_GLOBAL = re.compile(r"\*\*Global options\*\*:\n\n(?:\* .*\n)+\n?")
_MEANINGLESS = re.compile(r' \*\[default: (?:\(\)|""|False)\]\*')
_CONTENTS = re.compile(r"^# nacre\n.*?(?=^## nacre up$)", re.MULTILINE | re.DOTALL)
_HOW_WE_RUN = re.compile(r"^(nacre [a-z -]*?) -m \S+", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def page() -> str:
    """Return the page as Markdown."""
    listed = build().generate_docs(output_format="markdown", usage_name="nacre")
    found = _GLOBAL.search(listed)
    options = found.group(0).strip() if found else ""
    commands = _MEANINGLESS.sub("", _GLOBAL.sub("", _CONTENTS.sub("", listed)))
    commands = _HOW_WE_RUN.sub(r"\1", commands)
    commands = re.sub(r"^#{2,4} (nacre .*)$", r"## `\1`", commands, flags=re.MULTILINE)
    head = f"# Command line\n\n{HELP} Options may stand anywhere after `nacre`.\n\n{options}\n\n{EPILOGUE}\n\n"
    return _BLANK_LINES.sub("\n\n", head + commands).strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())

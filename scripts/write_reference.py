"""Write docs/reference/configuration.md from the code: `python scripts/write_reference.py`.

`make check` runs it with `--check` and fails when the page is out of step.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "nacre"
PAGES = ROOT / "docs" / "reference"

CONTROL = """\
`nacre-control --config FILE` reads a TOML file. The environment (`NACRE_CONTROL_DATA_DIR`, …) overrides the file, flags
(`--data-dir`, …) override both; `database`, which may hold a password, is not a flag. An unknown key is an error.
`nacre-control --new-claim` writes a new one-time claim for an administrator and ends."""

AGENT = """\
`nacre-agent` reads `/etc/nacre/agent.toml`, then `./agent.toml`, or only the file given with `--config FILE`. The
environment (`NACRE_AGENT_DATA_DIR`, …) overrides files, flags (`--data-dir`, …) override both; `join`, a secret,
is not a flag. An unknown key is an error."""

PROGRAMS = {"nacre-control": ("control/settings.py", CONTROL), "nacre-agent": ("agent/settings.py", AGENT)}
HEAD = "# Configuration\n\nMade from the code by `scripts/write_reference.py`. Times are in seconds, sizes in bytes.\n"


def configuration() -> str:
    """Return the page on settings."""
    parts = [HEAD]
    for program, (path, text) in PROGRAMS.items():
        parts.append(f"## {program}\n\n{text}\n\n| key | default | meaning |\n|---|---|---|")
        parts += [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in fields(SOURCE / path)]
        parts.append("")
    return "\n".join(parts)


def fields(path: Path) -> list[tuple[str, str, str]]:
    """Return name, default and docstring of every field of the class `Settings` in a file."""
    tree = ast.parse(path.read_text())
    (settings,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings"]
    found: list[tuple[str, str, str]] = []
    for node, following in zip(settings.body, [*settings.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        meaning = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            meaning = " ".join(str(following.value.value).split()).replace("|", "\\|")
        default = "required" if node.value is None else f"`{ast.unparse(node.value)}`"
        found.append((node.target.id, default, meaning))
    return found


def write(check: bool) -> int:
    """Write the pages, or say whether they are as they would be written."""
    stale = 0
    for name, text in {"configuration.md": configuration()}.items():
        page = PAGES / name
        if page.exists() and page.read_text() == text:
            continue
        stale += 1
        if check:
            sys.stderr.write(f"{page} is out of step: run python scripts/write_reference.py\n")
        else:
            page.write_text(text)
    return stale if check else 0


if __name__ == "__main__":
    sys.exit(write("--check" in sys.argv))

"""Copies of other machines' /proc and /sys, from a text file each: `path = text`, `path -> link`, `path <<` to `.`"""

from pathlib import Path

TREES = Path(__file__).parents[1] / "agent" / "host" / "trees"


def plant(machine: str, root: Path) -> Path:
    """Make the files of `machine` under `root` and return it."""
    lines = iter((TREES / f"{machine}.txt").read_text().splitlines())
    for line in lines:
        if not line or line.startswith("#"):
            continue
        if line.endswith(" <<"):
            content = "".join(f"{each}\n" for each in iter(lambda: next(lines), "."))
            write(root, line.removesuffix(" <<"), content)
        elif " -> " in line:
            path, _, target = line.partition(" -> ")
            link(root, path, target)
        else:
            path, _, content = line.partition(" = ")
            write(root, path, f"{content}\n")
    return root


def write(root: Path, path: str, content: str) -> None:
    """Make one file."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)


def link(root: Path, path: str, target: str) -> None:
    """Make one link, and what it leads to, as there is something behind every link of the kernel."""
    made = root / path
    made.parent.mkdir(parents=True, exist_ok=True)
    made.symlink_to(target)
    if not made.exists():
        made.resolve().parent.mkdir(parents=True, exist_ok=True)
        made.resolve().touch()

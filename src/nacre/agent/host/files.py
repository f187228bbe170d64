"""Reading /proc and /sys: what is not there, or does not want to be read, is empty. Used by readers of the host.

All take whole paths, so that the readers can be pointed at a copy of another machine's.
"""

from pathlib import Path


def text(path: Path) -> str:
    """Return the content of a file without blanks around it; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> int | None:
    """Return the whole number in a file, None if there is none. Knows 0x."""
    try:
        return int(text(path), 0)
    except ValueError:
        return None


def names(folder: Path) -> list[str]:
    """Return what is in a folder, in order; nothing if it cannot be listed."""
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def link_name(path: Path) -> str:
    """Return the last part of what a symbolic link leads to; empty if it is none."""
    try:
        return path.readlink().name
    except OSError:
        return ""

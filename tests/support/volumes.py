"""Volumes in a folder for tests: what is in them, which files they are, and a killer at the n-th effect."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

_FILES = frozenset({"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.ioctl"})
EFFECTS = _FILES | {"subprocess.Popen", "os.posix_spawn"}
"""Audit events of what changes the disk, or has it changed. https://docs.python.org/3/library/audit_events.html"""
QUESTIONS = (("image-meta", "get"), ("snap", "ls"), ("trash", "ls"), ("info",), ("du",), ("status",), ("ls",))
"""What `rbd` is asked without changing anything."""


def strike_at(number: int) -> None:
    """Have this process killed just before its `number`-th effect, counted from now. 0 is never."""
    left = number

    def hear(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event not in EFFECTS and not writes:
            return
        if event == "subprocess.Popen" and _asks(arguments):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)


def _asks(arguments: tuple[object, ...]) -> bool:
    """Whether a program that is started only answers a question."""
    words = tuple(arguments[1])[1:] if isinstance(arguments[1], list | tuple) else ()
    return any(words[: len(question)] == question for question in QUESTIONS)


def fill(path: Path, text: str, offset: int = 0) -> None:
    """Write a pattern of one character into the file of a disk."""
    command = f"write -P {ord(text)} {offset} 64k"
    subprocess.run(["qemu-io", "-f", form_of(path), "-c", command, str(path)], check=True, capture_output=True)


def content(path: Path, form: str = "") -> str:
    """The first bytes of the first six blocks of 64 KiB of a disk, in letters; less if it is shorter.

    `form` is for files whose names do not tell their format.
    """
    words = ["-c", "read -v 0 1", "-c", "read -v 65536 1", "-c", "read -v 131072 1"]
    words += ["-c", "read -v 196608 1", "-c", "read -v 262144 1", "-c", "read -v 327680 1"]
    command = ["qemu-io", "-U", "-r", "-f", form or form_of(path), *words, str(path)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return "".join(chr(int(found, 16)) for found in re.findall(r"^[0-9a-f]{8}:\s+([0-9a-f]{2})", said, re.MULTILINE))


def holds(path: Path, text: str, offset: int = 0) -> bool:
    """Whether the file of a disk has that pattern."""
    return content(path)[offset // 65536] == text


def form_of(path: Path) -> str:
    """The format of the file of a disk, which its name tells."""
    return path.suffix.removeprefix(".")


def sound(path: Path) -> bool:
    """Whether qemu-img finds nothing wrong with a file, leaks included. In a raw one nothing can be."""
    return form_of(path) == "raw" or (
        subprocess.run(["qemu-img", "check", "-q", "-U", str(path)], check=False, capture_output=True).returncode == 0
    )

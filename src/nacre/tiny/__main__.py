"""`python -m nacre.tiny --output DIR`: build the tiny image from the shell."""

import argparse
import sys
from pathlib import Path

from nacre.errors import NacreError
from nacre.tiny import build


def main() -> int:
    """Build, say what was built, return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nacre.tiny", description="Build the tiny image.")
    parser.add_argument(
        "--output", type=Path, default=Path("tiny"), metavar="DIR", help="where to write (default: tiny)"
    )
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where to keep downloaded packages")
    parser.add_argument(
        "--download", action="store_true", help="use downloaded packages even if this machine has a kernel installed"
    )
    options = parser.parse_args()
    try:
        image = build(options.output, _say, cache=options.cache, installed=not options.download)
    except NacreError as error:
        _say(f"error: {error.message}\nhint: {error.hint}")
        return 1
    sys.stdout.write(f"kernel: {image.kernel}\ninitrd: {image.initrd}\nkernel arguments: {image.kernel_args}\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())

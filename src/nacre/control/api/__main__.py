"""Keep `openapi.yaml` in step with the code: `python -m nacre.control.api --check` or `--write`. Called by make."""

import argparse
import sys
from importlib.metadata import version
from pathlib import Path

from nacre.control.api.openapi import document, to_yaml
from nacre.control.api.routes import build


def main() -> int:
    """Check or write `openapi.yaml` at the root of the repository."""
    parser = argparse.ArgumentParser(description="Keep openapi.yaml in step with the code.")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true", help="fail if the file is not what the code says")
    action.add_argument("--write", action="store_true", help="write the file")
    parser.add_argument("--file", type=Path, default=Path(__file__).parents[4] / "openapi.yaml")
    arguments = parser.parse_args()
    made = to_yaml(document(build(None), version("nacre")))
    if arguments.write:
        arguments.file.write_text(made)
        return 0
    if arguments.file.exists() and arguments.file.read_text() == made:
        return 0
    sys.stderr.write("openapi.yaml is not in step with the code: python -m nacre.control.api --write\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())

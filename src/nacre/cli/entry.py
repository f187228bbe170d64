"""What the program `nacre` begins with: ^C ends it without a word also while the rest is still being imported."""

import sys


def main() -> None:
    """Entry point of the `nacre` program."""
    try:
        from nacre.cli.main import run  # here, because it takes a while in which somebody may think better of it

        code = run()
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()

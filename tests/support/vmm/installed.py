"""Stand-ins as programs under their real names, in a folder that a test puts first in its PATH."""

import sys
from pathlib import Path

TESTS = Path(__file__).parents[2]


def install(directory: Path, **programs: str) -> Path:
    """Write a program per keyword, which runs `main` of a module beside this one. Returns the folder.

    A real binary given as an absolute path is linked instead.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, module in programs.items():
        path = directory / name.replace("_", "-")
        path.unlink(missing_ok=True)
        if module.startswith("/"):
            path.symlink_to(module)
            continue
        path.write_text(
            f"#!{sys.executable} -I\nimport sys\nsys.path.insert(0, {str(TESTS)!r})\n"
            f"from support.vmm.{module} import main\nsys.exit(main(sys.argv))\n"
        )
        path.chmod(0o755)
    return directory

"""A wall clock that tests move while programs run. Their monotonic clock is left as it is."""

from pathlib import Path


class WallClock:
    """The clock of programs that are started with its environment."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.jump("+0")

    def jump(self, offset: str) -> None:
        """Set how far it is from the true time, for example `+2h`, `-61d` or `+0`."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{offset}\n")
        draft.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """What a program is to have in its environment."""
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return {
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(Path(__file__).with_name("faketime")),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

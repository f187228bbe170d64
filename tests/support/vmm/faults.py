"""What is to go wrong between a stand-in and its clients: slow, silent, broken and refused answers, sudden deaths."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

FAULTS = "NACRE_STAND_IN_FAULTS"
"""Environment variable: a JSON file with a list of `Fault`s, read before each request."""


@dataclass(kw_only=True)
class Fault:
    """Something that goes wrong with the requests that it fits: all of `method` (any) whose path begins with `path`."""

    kind: str
    """`slow` (answered after `seconds`), `hang` (never answered, nor is what follows), `503`, `refuse` (not handled,
    answered with `status` and `body`), `drop` (half of the answer, then the connection ends), `silent` (handled, then
    the connection ends), `crash` (the process ends before it is handled), `crash-after` (the process ends then)."""
    method: str = ""
    path: str = ""
    after: int = 0
    """So many requests that fit go well first."""
    times: int | None = None
    """How many it hits; None for all."""
    seconds: float = 0.0
    status: int = 400
    body: object = None
    exit_code: int = 1


class Faults:
    """What is to go wrong, from a list and from a file that may change at any time."""

    def __init__(self, faults: list[Fault] | None = None, path: Path | None = None) -> None:
        self.faults = faults if faults is not None else []
        self._path = path
        self._seen: dict[str, int] = {}

    @classmethod
    def from_environment(cls) -> "Faults":
        """As the test has set it, for stand-ins that run as processes of their own."""
        return cls(path=Path(os.environ[FAULTS]) if os.environ.get(FAULTS) else None)

    def find(self, method: str, path: str) -> Fault | None:
        """Return what happens to this request."""
        found = None
        for fault in [*self.faults, *self._from_file()]:
            if (fault.method and fault.method != method) or not path.startswith(fault.path):
                continue
            key = repr(fault)
            count = self._seen[key] = self._seen.get(key, 0) + 1
            if fault.after < count and (fault.times is None or count <= fault.after + fault.times):
                found = found or fault
        return found

    def _from_file(self) -> list[Fault]:
        if self._path is None or not self._path.exists():
            return []
        return [Fault(**each) for each in json.loads(self._path.read_text() or "[]")]

"""A program on a terminal of its own: typed to, read from, watched for how it leaves the terminal."""

import os
import pty
import select
import signal
import subprocess
import termios
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from support.patience import Patience


class PtyProgram:
    """One program on a pseudo-terminal. Use it as a context manager."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self._theirs = os.dup(theirs)
        self.settings_before = termios.tcgetattr(self._theirs)
        self.seen = b""
        self.process = subprocess.Popen(
            argv, stdin=theirs, stdout=theirs, stderr=theirs, env=dict(environment), start_new_session=True
        )
        os.close(theirs)

    def settings(self) -> list[Any]:
        """The terminal's settings now."""
        return termios.tcgetattr(self._theirs)

    def press(self, data: bytes) -> None:
        """Press keys."""
        os.write(self._ours, data)

    def expect(self, wanted: bytes, timeout: float = 15) -> None:
        """Read until `wanted` has been shown; it and what came before it is then forgotten."""
        patience = Patience(timeout)
        while wanted not in self.seen:
            if select.select([self._ours], [], [], 0.1)[0]:
                self.seen += os.read(self._ours, 4096)
            elif patience.is_over():
                raise AssertionError(f"{wanted!r} was not shown; what was: {self.seen!r}")
        self.seen = self.seen.partition(wanted)[2]

    def rest(self) -> bytes:
        """Return what was shown and not yet expected."""
        while select.select([self._ours], [], [], 0.1)[0]:
            self.seen += os.read(self._ours, 4096)
        return self.seen.strip()

    def leave(self, timeout: float = 15) -> int:
        """Return the exit status, once the program has ended."""
        return self.process.wait(timeout)

    def __enter__(self) -> "PtyProgram":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

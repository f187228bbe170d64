"""A shell in a tiny guest, through the API: commands typed on its console."""

import itertools
from contextlib import ExitStack

from websockets.sync.client import connect

from support.platform import Platform, eventually

_NUMBERS = itertools.count(1)


class Console:
    """A shell in a guest, through the API."""

    def __init__(self, cloud: Platform, vm: str) -> None:
        url = cloud.url.replace("http", "ws") + f"/v1/vms/{vm}/console"
        self._stack = ExitStack()
        headers = {"Authorization": f"Bearer {cloud.token}"}
        self._socket = self._stack.enter_context(connect(url, additional_headers=headers))

    def run(self, command: str) -> str:
        """What a command prints."""
        self._number = next(_NUMBERS)  # never one that the scrollback of another connection shows
        self._socket.send(f"\necho be''gin{self._number}; {command}; echo e''nd{self._number}\n".encode())
        seen = ""
        while f"end{self._number}" not in seen:
            data = self._socket.recv(timeout=60)
            seen += data if isinstance(data, str) else data.decode(errors="replace")
        return seen.partition(f"begin{self._number}")[2].partition(f"end{self._number}")[0].strip()

    def until(self, command: str, expected: str) -> str:
        """Run a command until it prints something."""
        return str(eventually(lambda: expected in (said := self.run(command)) and said, what=command))

    def close(self) -> None:
        """Hang up."""
        self._stack.close()

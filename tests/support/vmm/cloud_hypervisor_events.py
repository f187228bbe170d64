"""The event file of a Cloud Hypervisor stand-in."""

import json
import os
import queue
import threading
import time


class Events:
    """Indented JSON, with an empty line after each; written by a thread of its own, a little later than it happens."""

    def __init__(self, path: str | None) -> None:
        self._began = time.monotonic()
        self._file = None if path is None else os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._waiting: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._write, daemon=True).start()

    def tell(self, source: str, event: str, **properties: str) -> None:
        """Have one written down."""
        elapsed = time.monotonic() - self._began
        found = {
            "timestamp": {"secs": int(elapsed), "nanos": int(elapsed % 1 * 1e9)},
            "source": source,
            "event": event,
            "properties": properties or None,
        }
        self._waiting.put(json.dumps(found, indent=2).encode() + b"\n\n")

    def flush(self) -> None:
        """Return when all are written."""
        self._waiting.join()

    def _write(self) -> None:
        while True:
            data = self._waiting.get()
            if self._file is not None:
                os.write(self._file, data)
            self._waiting.task_done()

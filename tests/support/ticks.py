"""A program for guests that counts in its memory and says so ten times a second, and who listens to it.

Each tick is one datagram, never sent again: the boot of the guest, the number, and the newest number for which the
listener has thanked. So what is heard tells whether the program is the same one, whether anything of its memory is
lost, and whether both directions of its network work. The judgement is pure.
"""

import itertools
import re
import select
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

EVERY_S = 0.1
"""How often a guest says its number."""
HOST = "10.0.2.2"
"""The node's own loopback address, as guests on a user-mode network see it."""
_TICK = re.compile(rb"tick (\S+) (\d+) (\d+)")

PROGRAM = f"""\
# Count for ever. Arguments: the port of who listens, and a file for the newest number.
import socket, sys, time

boot = open("/proc/sys/kernel/random/boot_id").read().strip()
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.connect(("{HOST}", int(sys.argv[1])))
line.setblocking(False)
count = thanked = 0
due = time.monotonic()
while True:
    count += 1
    try:
        while True:
            thanked = int(line.recv(64))
    except OSError:
        pass
    with open(sys.argv[2], "w") as file:
        file.write(str(count))
    line.send(f"tick {{boot}} {{count}} {{thanked}}".encode())
    due = max(due + {EVERY_S}, time.monotonic())
    time.sleep(due - time.monotonic() if due > time.monotonic() else 0)
"""


@dataclass(frozen=True)
class Tick:
    """One datagram: boot, number and newest thanks as the guest says; `at` in seconds of the monotonic clock."""

    boot: str
    count: int
    thanked: int
    at: float


def breaks(ticks: Sequence[Tick]) -> list[tuple[Tick, Tick]]:
    """Return where the numbers do not follow one another: a tick was lost or doubled, or it is another program."""
    return [(one, two) for one, two in itertools.pairwise(ticks) if (two.boot, two.count) != (one.boot, one.count + 1)]


def longest_gap_ms(ticks: Sequence[Tick]) -> float:
    """For how long nothing was heard, at most."""
    return max(((two.at - one.at) * 1000 for one, two in itertools.pairwise(ticks)), default=0.0)


class Listener:
    """Hears one guest, and thanks it for each tick, until it is closed."""

    def __init__(self) -> None:
        self._ticks: list[Tick] = []
        self._ended = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._listen, name="ticks")
        self._thread.start()

    @property
    def ticks(self) -> list[Tick]:
        """All that came so far, in order."""
        return list(self._ticks)

    def since(self, mark: int) -> list[Tick]:
        """What came after the first `mark` ticks, and the one before, so that nothing is lost in between."""
        return self._ticks[max(0, mark - 1) :]

    def close(self) -> None:
        """Stop listening."""
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            if select.select([self._socket], [], [], 0.2)[0]:
                try:
                    text, sender = self._socket.recvfrom(2048, socket.MSG_DONTWAIT)
                except OSError:
                    continue  # damaged, or the thanks for the one before reached nobody any more
                if match := _TICK.fullmatch(text):
                    boot, count, thanked = match.groups()
                    self._ticks.append(Tick(boot.decode(), int(count), int(thanked), time.monotonic()))
                    self._socket.sendto(count, sender)

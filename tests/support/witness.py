"""The witness: guests claim, several times a second, that they run; what the claims say is judged here.

A claim names the machine, a boot id that is random per boot, and a counter. It travels as one datagram, which is never
sent again, so the order in which claims arrive is the order in which they were made. `Recorder` listens on a host of
the lab; the judgement is pure.
"""

import itertools
import re
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from support.netns import Host, bound

PORT = 9999
EVERY_S = 0.2
"""How often a guest claims."""
_CLAIM = re.compile(rb"claim (\S+) (\S+) (\d+)")


@dataclass(frozen=True)
class Claim:
    """One datagram: machine, boot and counter as the guest says, when it came in seconds of the monotonic clock."""

    machine: str
    boot: str
    counter: int
    at: float


@dataclass(frozen=True)
class Life:
    """One boot of a machine, as far as it was seen."""

    machine: str
    boot: str
    first: float
    last: float
    claims: int
    lost: int
    """Claims that were made between the first and the last and did not arrive."""
    silence: float
    """The longest time without a claim between the first and the last."""


@dataclass(frozen=True)
class Double:
    """A machine that ran twice: claims of an older boot after the first of a newer one."""

    machine: str
    older: str
    newer: str
    claims: int
    overlap: float
    """Seconds from the first claim of the newer boot to the last of the older."""


def lives(claims: Iterable[Claim]) -> dict[str, list[Life]]:
    """Return the boots of every machine in the order in which they were first seen."""
    found: dict[tuple[str, str], list[Claim]] = defaultdict(list)
    for claim in claims:
        found[claim.machine, claim.boot].append(claim)
    by_machine: dict[str, list[Life]] = defaultdict(list)
    for (machine, boot), made in found.items():
        times = [claim.at for claim in made]
        by_machine[machine].append(
            Life(
                machine=machine,
                boot=boot,
                first=times[0],
                last=times[-1],
                claims=len(made),
                lost=made[-1].counter - made[0].counter + 1 - len(made),
                silence=max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0),
            )
        )
    return dict(by_machine)


def doubles(claims: Sequence[Claim]) -> list[Double]:
    """Return every pair of boots of one machine of which the older was still heard after the newer."""
    found: list[Double] = []
    for machine, known in lives(claims).items():
        for index, newer in enumerate(known):
            for older in known[:index]:
                late = [c for c in claims if (c.machine, c.boot) == (machine, older.boot) and c.at > newer.first]
                if late:
                    overlap = late[-1].at - newer.first
                    found.append(Double(machine, older.boot, newer.boot, claims=len(late), overlap=overlap))
    return found


def gaps(claims: Iterable[Claim], machine: str, *, longer_than: float) -> list[tuple[float, float]]:
    """Return when a machine was not heard, whatever its boot: start and end of every silence of that length."""
    times = [claim.at for claim in claims if claim.machine == machine]
    return [(one, two) for one, two in itertools.pairwise(times) if two - one > longer_than]


class Recorder:
    """Listens on the data network of a host until it is closed."""

    def __init__(self, host: Host) -> None:
        self.address = f"{host.addresses['data']}:{PORT}"
        self._claims: list[Claim] = []
        self._ended = threading.Event()
        self._socket = host.inside(lambda: bound(host.addresses["data"], PORT))
        self._thread = threading.Thread(target=self._listen, name="recorder")
        self._thread.start()

    @property
    def claims(self) -> list[Claim]:
        """All that came so far, in order."""
        return list(self._claims)

    def newest(self, machine: str) -> Claim | None:
        """The last claim of a machine."""
        return next((claim for claim in reversed(self.claims) if claim.machine == machine), None)

    def boots(self, machine: str) -> list[str]:
        """The boot ids of a machine, oldest first."""
        return [life.boot for life in lives(self.claims).get(machine, [])]

    def first_since(self, machine: str, moment: float, *, not_boot: str = "") -> Claim | None:
        """The first claim of a machine after a moment, and of another boot than `not_boot`."""
        return next((c for c in self.claims if c.machine == machine and c.at > moment and c.boot != not_boot), None)

    def is_heard(self, machine: str, *, within: float = 1.0) -> bool:
        """Whether a machine has claimed in the last seconds."""
        newest = self.newest(machine)
        return newest is not None and time.monotonic() - newest.at < within

    def close(self) -> None:
        """Stop listening. What was heard stays."""
        self._ended.set()
        self._thread.join()
        self._socket.close()

    def _listen(self) -> None:
        while not self._ended.is_set():
            if select.select([self._socket], [], [], 0.2)[0]:
                try:
                    text = self._socket.recv(2048, socket.MSG_DONTWAIT)
                except BlockingIOError:
                    continue  # it was there, and damaged (select(2), "BUGS")
                if match := _CLAIM.search(text):
                    machine, boot, counter = match.groups()
                    self._claims.append(Claim(machine.decode(), boot.decode(), int(counter), time.monotonic()))

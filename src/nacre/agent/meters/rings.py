"""The samples of one machine in one file of fixed size: three rings, each coarser and longer than the one before.

A sample has its place by its time, so nothing but the sample is ever written, and a reader needs no index. Not synced:
what a power cut takes are the last seconds of a graph. Blocking; each call is short.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from nacre.agent.meters.samples import SIZE, Sample, decode, encode, thinned
from nacre.model.metrics import MAX_POINTS, TIERS

FILE_BYTES = SIZE * sum(count for _, count in TIERS)
"""402 432 for each machine."""


class Ring:
    """The samples of one machine."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, sample: Sample) -> None:
        """Keep a sample, in every ring; in each it takes the place of what is too old. Raises OSError."""
        data = encode(sample)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for base, step, count in _tiers():
                os.pwrite(descriptor, data, base + sample.at // step % count * SIZE)
        finally:
            os.close(descriptor)

    def last(self) -> Sample | None:
        """Return the newest sample."""
        return max(self._read(0), key=lambda sample: sample.at, default=None)

    def between(self, begin: float, end: float, now: float, step_s: int | None) -> tuple[int, list[Sample]]:
        """Return the samples of a time, the oldest first and one before `begin`, and the seconds between them.

        From the finest ring that reaches so far back; made coarser if that is wanted or if there were too many.
        """
        steps = [step for step, count in TIERS if begin >= now - step * count] or [TIERS[-1][0]]
        tier = next(index for index, (step, _) in enumerate(TIERS) if step == steps[0])
        step = max(steps[0], step_s or 0, -(-int(end - begin) // MAX_POINTS))
        found = sorted(self._read(tier), key=lambda sample: sample.at)
        wanted = [sample for sample in found if begin - 2 * step <= sample.at <= end]
        return step, thinned(wanted, step)

    def remove(self) -> None:
        """Forget the machine."""
        self._path.unlink(missing_ok=True)

    def _read(self, tier: int) -> Iterator[Sample]:
        base, step, count = list(_tiers())[tier]
        try:
            with self._path.open("rb") as file:
                file.seek(base)
                data = file.read(count * SIZE)
        except FileNotFoundError:
            return
        for place in range(0, len(data) - SIZE + 1, SIZE):
            sample = decode(data[place : place + SIZE])
            if sample is not None and sample.at // step % count == place // SIZE:
                yield sample


def _tiers() -> Iterator[tuple[int, int, int]]:
    base = 0
    for step, count in TIERS:
        yield base, step, count
        base += count * SIZE

"""For how long a machine is not heard when it moves to another node while it runs, hand-over included.

Two hosts in network namespaces, real guests under QEMU, default settings. A second guest stays where it is and is
listened to at the same times, for comparison. NACRE_BENCH_MIGRATE_ROUNDS: how often.
"""

import itertools
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bench.results import Result
from support import claimant, netns
from support.multihost import PATIENCE_S, Fleet, fleet
from support.platform import eventually
from support.witness import Claim, doubles

ROUNDS = int(os.environ.get("NACRE_BENCH_MIGRATE_ROUNDS", "10"))
EVERY_S = 0.1
MOVES, STAYS = "mover", "still"
_REST_S = 3.0
"""After each move, so that moves have nothing of one another."""


@dataclass(frozen=True)
class Move:
    """When a move was asked for and when the machine was heard again after it; for how long its guest stood still."""

    began: float
    ended: float
    downtime_ms: float


def moves() -> Iterator[Result]:
    """Move one machine to and fro, beside one that stays."""
    if reason := netns.hindrance():
        raise RuntimeError(f"this bench needs network namespaces: {reason}")
    with netns.lab() as lab, fleet(lab, nodes=2) as cloud:
        boots = {name: _speaking(cloud, name) for name in (MOVES, STAYS)}
        made = [_moved(cloud, number) for number in range(1, ROUNDS + 1)]
        claims = cloud.recorder.claims
        for name, boot in boots.items():
            _require_unbroken([claim for claim in claims if claim.machine == name], boot)
        if twice := doubles(claims):
            raise RuntimeError(f"ran twice: {twice}")
    gaps, beside = ([_longest_gap_ms(claims, name, move) for move in made] for name in (MOVES, STAYS))
    stood = statistics.median(move.downtime_ms for move in made)
    yield Result(
        name="migrate.longest_gap.ms",
        value=max(gaps),
        unit="ms",
        better="lower",
        reference=f"p50 {statistics.median(gaps):.0f} ms; a guest that stays, at the same times: "
        f"p50 {statistics.median(beside):.0f}, max {max(beside):.0f} ms",
        samples=gaps,
        how=f"longest silence, per move, of a guest that says a number every {EVERY_S * 1000:.0f} ms and moved "
        f"{ROUNDS} times with a disk of 64 MiB, no number lost or doubled; QEMU held it still for "
        f"p50 {stood:.0f} ms; 2 nodes, QEMU under TCG",
    )


def _speaking(cloud: Fleet, name: str) -> str:
    """Start a machine that is heard; its boot id."""
    words = claimant.arguments(name, cloud.recorder.address, every_s=EVERY_S)
    cloud.create(name, disk_bytes=64 << 20, kernel_args=words)
    return cloud.boot_of(name)


def _moved(cloud: Fleet, number: int) -> Move:
    began = time.monotonic()
    move = cloud.post(f"/v1/vms/{MOVES}/move", {"method": "live"})
    path = f"/v1/moves/{move['id']}"
    done: Any = eventually(
        lambda: (now := cloud.get(path))["ended_at"] and now, timeout=PATIENCE_S, what="the end of a move"
    )
    if done["state"] != "done":
        raise RuntimeError(f"round {number} did not move it: {done}")
    over = time.monotonic()
    heard = eventually(lambda: cloud.recorder.first_since(MOVES, over), timeout=PATIENCE_S, what="it is heard again")
    time.sleep(_REST_S)
    return Move(began, heard.at, done["live"]["downtime_ms"])


def _longest_gap_ms(claims: list[Claim], name: str, during: Move) -> float:
    times = [claim.at for claim in claims if claim.machine == name]
    pairs = itertools.pairwise(times)
    return max((two - one) * 1000 for one, two in pairs if two > during.began and one < during.ended)


def _require_unbroken(claims: list[Claim], boot: str) -> None:
    """Raise RuntimeError if a number was lost or doubled, or if it is another guest."""
    for one, two in itertools.pairwise(claims):
        if (two.boot, two.counter) != (boot, one.counter + 1):
            raise RuntimeError(f"{one} is followed by {two}")


BENCHES = {("migrate.longest_gap.ms",): moves}

"""For how long a machine is not heard when it moves to another node while it runs, hand-over included.

Two hosts in network namespaces, real guests under QEMU, default settings. NACRE_BENCH_MIGRATE_ROUNDS: how often.
"""

import itertools
import os
from collections.abc import Iterator

from bench.results import Result
from support import netns
from support.multihost import PATIENCE_S, fleet
from support.platform import eventually
from support.witness import doubles

ROUNDS = int(os.environ.get("NACRE_BENCH_MIGRATE_ROUNDS", "10"))
NAME = "mover"


def moves() -> Iterator[Result]:
    """Move one machine to and fro."""
    if reason := netns.hindrance():
        raise RuntimeError(f"this bench needs network namespaces: {reason}")
    with netns.lab() as lab, fleet(lab, nodes=2) as cloud:
        cloud.create(NAME, disk_bytes=64 << 20)
        boot = cloud.boot_of(NAME)
        for number in range(1, ROUNDS + 1):
            move = cloud.post(f"/v1/vms/{NAME}/move", {"method": "live"})
            done = eventually(
                lambda made=move: (now := cloud.get(f"/v1/moves/{made['id']}"))["ended_at"] and now,
                timeout=PATIENCE_S,
                what="the end of a move",
            )
            if done["state"] != "done":
                raise RuntimeError(f"round {number} did not move it: {done}")
            cloud.boot_of(NAME)
        heard = [claim.at for claim in cloud.recorder.claims if claim.machine == NAME]
        same, twice = cloud.recorder.boots(NAME) == [boot], doubles(cloud.recorder.claims)
    if twice or not same:
        raise RuntimeError(f"ran twice or anew: {twice}")
    gaps = sorted((after - before) * 1000 for before, after in itertools.pairwise(heard))[-ROUNDS:]
    yield Result(
        name="migrate.longest_gap.ms",
        value=max(gaps),
        unit="ms",
        better="lower",
        reference="the guest speaks every 200 ms",
        samples=gaps,
        how=f"the longest silences of a guest that moved {ROUNDS} times with a disk of 64 MiB; 2 nodes, QEMU under TCG",
    )


BENCHES = {("migrate.longest_gap.ms",): moves}

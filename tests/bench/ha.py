"""How long a machine with `ha: restart` is away when its node loses its power, and that it never runs twice.

Three hosts in network namespaces, real guests under QEMU, default settings. NACRE_BENCH_HA_ROUNDS changes the rounds.
"""

import os
import time
from collections.abc import Iterator

import numpy as np

from bench.results import Result
from support import netns
from support.multihost import PATIENCE_S, Fleet, fleet
from support.platform import eventually
from support.witness import doubles

ROUNDS = int(os.environ.get("NACRE_BENCH_HA_ROUNDS", "20"))
NAME = "survivor"
HOW = (
    "power-off of the node (links down, SIGKILL of all its processes) until the recorder hears its next boot; "
    "default settings (lease 35 s), 3 nodes in network namespaces, QEMU under TCG"
)


def restart() -> Iterator[Result]:
    """Take the power from whatever node runs the machine, again and again."""
    if reason := netns.hindrance():
        raise RuntimeError(f"this bench needs network namespaces: {reason}")
    with netns.lab() as lab, fleet(lab) as cloud:
        cloud.create(NAME, ha=True)
        cloud.boot_of(NAME)
        samples = [once(cloud, number) for number in range(1, ROUNDS + 1)]
        twice = doubles(cloud.recorder.claims)
    if twice:
        raise RuntimeError(f"ran twice: {twice}")
    for name, value in (
        ("p50", float(np.percentile(samples, 50))),
        ("p95", float(np.percentile(samples, 95))),
        ("max", max(samples)),
    ):
        yield Result(
            name=f"ha.restart.s_{name}",
            value=value,
            unit="s",
            better="lower",
            reference="at most 45 s",
            samples=samples,
            how=HOW,
        )
    yield Result(
        name="ha.double_runs",
        value=float(len(twice)),
        unit="",
        better="lower",
        reference="0",
        samples=[0.0] * ROUNDS,
        how="boots of one machine of which the older was heard after the newer, over all rounds",
    )


def once(cloud: Fleet, number: int) -> float:
    """One power-off; seconds until the successor is heard. Leaves every node ready."""
    home = cloud.nodes[cloud.where(NAME)]
    boot = cloud.boot_of(NAME)
    began = time.monotonic()
    home.power_off()
    cloud.boot_of(NAME, other_than=boot, timeout=2 * PATIENCE_S)
    first = cloud.recorder.first_since(NAME, began, not_boot=boot)
    assert first is not None
    seconds = first.at - began
    home.power_on()
    cloud.all_ready(timeout=PATIENCE_S)
    eventually(lambda: not home.guests(), timeout=PATIENCE_S, what="nothing runs on the node that was off")
    eventually(lambda: cloud.vm(NAME)["phase"] == "running", timeout=PATIENCE_S, what="the machine runs")
    print(f"round {number}: {seconds:.1f} s, {home.name} to {cloud.where(NAME)}", flush=True)
    return seconds


BENCHES = {("ha.restart.s_p50", "ha.restart.s_p95", "ha.restart.s_max", "ha.double_runs"): restart}

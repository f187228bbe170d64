"""What the programs cost when nothing happens."""

import statistics
import time
from collections.abc import Iterator

from bench.results import Result
from support.platform import platform

SETTLE_S = 15
SAMPLES = 10


def idle() -> Iterator[Result]:
    """Resident memory of both programs on a platform that has been quiet for a while."""
    control: list[float] = []
    agent: list[float] = []
    with platform() as cloud:
        time.sleep(SETTLE_S)
        for _ in range(SAMPLES):
            control.append(cloud.control.rss_mib())
            agent.append(cloud.agent.rss_mib())
            time.sleep(0.5)
    for name, samples, limit in (("control", control, 150), ("agent", agent, 90)):
        yield Result(
            name=f"{name}.idle.mib",
            value=statistics.median(samples),
            unit="MiB",
            better="lower",
            reference=f"under {limit} MB",
            samples=samples,
            how=f"VmRSS of nacre-{name} after {SETTLE_S} quiet seconds, one node, no machines; median",
        )


BENCHES = {("control.idle.mib", "agent.idle.mib"): idle}

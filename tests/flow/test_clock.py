"""The wall clock of a node jumps: guests do not notice, the platform says so, and it ends by itself."""

import tempfile
from pathlib import Path

import pytest

from support.guests import tiny_image
from support.platform import Platform, eventually, platform
from support.wallclock import WallClock

pytestmark = pytest.mark.host


def test_a_jumping_clock_is_reported_and_disturbs_no_guest() -> None:
    with tempfile.TemporaryDirectory(prefix="nacre-clock-") as directory:
        clock = WallClock(Path(directory) / "offset")
        with platform(agent_env=clock.environment, heartbeat_s=1.0, offline_after_s=5.0) as cloud:
            image = tiny_image()
            cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
            cloud.post("/v1/vms", {"name": "steady", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
            pids = cloud.guest_pids()
            for jump in ("+2h", "-2h", "+0"):
                clock.jump(jump)
                if jump == "+0":
                    eventually(lambda: "ClockSkew" not in conditions(cloud), what="cleared")
                else:
                    eventually(lambda: "ClockSkew" in conditions(cloud), what="reported")
                assert node(cloud)["state"] == "ready"
            assert cloud.guest_pids() == pids
            assert cloud.post("/v1/vms/steady/stop", {"force": True}, wait=30)["resource"]["phase"] == "stopped"


def node(cloud: Platform) -> dict[str, object]:
    return cloud.get("/v1/nodes")["items"][0]


def conditions(cloud: Platform) -> list[str]:
    return [condition["kind"] for condition in cloud.get("/v1/nodes")["items"][0]["conditions"]]

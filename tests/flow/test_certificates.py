"""Certificates of nodes over their life, with real programs whose clock is moved: replaced, expired, revoked."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from support.platform import Platform, eventually, platform
from support.wallclock import WallClock

pytestmark = pytest.mark.host

LIFE = timedelta(days=90)


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WallClock:
    """The clock of every program that is started from here."""
    clock = WallClock(tmp_path / "offset")
    for name, value in clock.environment.items():
        monkeypatch.setenv(name, value)
    return clock


def node(cloud: Platform) -> dict[str, Any]:
    return cloud.get("/v1/nodes/node-0")


def states(cloud: Platform) -> list[str]:
    return [each["state"] for each in cloud.get("/v1/nodes")["items"]]


def expiry(cloud: Platform) -> datetime:
    return datetime.fromisoformat(node(cloud)["certificate_expires_at"])


def heard_again(cloud: Platform) -> None:
    """Wait for a few heartbeats."""
    for _ in range(3):
        before = node(cloud)["last_seen_at"]
        eventually(lambda before=before: node(cloud)["last_seen_at"] != before, what="a heartbeat")


def events(cloud: Platform, type_: str) -> int:
    return len(cloud.get("/v1/events", type=type_)["items"])


def told(program_log: str, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in program_log.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_certificate_is_replaced_at_two_thirds_of_its_life_and_the_link_stays(moved: WallClock) -> None:
    with platform(heartbeat_s=0.5, offline_after_s=5.0) as cloud:
        first = expiry(cloud)
        moved.jump("+59d")
        heard_again(cloud)
        assert expiry(cloud) == first
        moved.jump("+61d")
        eventually(lambda: expiry(cloud) > first, what=f"replaced\n{cloud.agent.tail()}")
        assert timedelta(days=60) < expiry(cloud) - first < timedelta(days=62)
        heard_again(cloud)
        assert (events(cloud, "node.connected"), events(cloud, "node.disconnected")) == (1, 0)
        second = expiry(cloud)
        moved.jump("+100d")  # the first one would be over by now
        heard_again(cloud)
        assert expiry(cloud) == second
        assert node(cloud)["state"] == "ready"
        assert events(cloud, "node.disconnected") == 0

        cloud.agent.kill()
        cloud.agent.start()
        eventually(lambda: events(cloud, "node.connected") == 2, what=f"back\n{cloud.agent.tail()}")
        heard_again(cloud)
        assert node(cloud)["state"] == "ready"


def test_a_node_that_was_away_for_too_long_is_told_how_to_come_back_and_comes_back(moved: WallClock) -> None:
    with platform(heartbeat_s=0.5, offline_after_s=5.0) as cloud:
        cloud.agent.kill()
        moved.jump("+91d")
        cloud.agent.start()
        log = cloud.agent.log
        (line,) = eventually(
            lambda: [line for line in told(log.read_text(), "link.down") if line["code"] == "certificate_expired"],
            what=f"expired\n{cloud.agent.tail()}",
        )
        assert "nacre node token create" in line["hint"]
        assert "identity" in line["hint"]
        eventually(lambda: node(cloud)["state"] == "offline", what="offline")

        cloud.agent.kill()
        shutil.rmtree(cloud.root / "agent-0/identity")
        cloud.delete("/v1/nodes/node-0")
        config = cloud.root / "agent-0.toml"
        join = cloud.post("/v1/nodes/tokens", {"node_name": "node-0"})["join"]
        config.write_text(re.sub('^join = ".*"$', f'join = "{join}"', config.read_text(), flags=re.MULTILINE))
        cloud.agent.start()
        eventually(lambda: states(cloud) == ["ready"], what=f"back\n{cloud.agent.tail()}")
        assert expiry(cloud) > datetime.now(tz=expiry(cloud).tzinfo) + timedelta(days=175)


def test_the_certificate_of_a_removed_node_is_refused_at_once() -> None:
    with platform(heartbeat_s=10.0, offline_after_s=30.0) as cloud:
        cloud.delete("/v1/nodes/node-0")
        log = cloud.agent.log
        (line, *_) = eventually(
            lambda: [line for line in told(log.read_text(), "link.down") if line["code"] == "node_removed"],
            timeout=8,
            what="less than a heartbeat",
        )
        assert "nacre node token create" in line["hint"]


@pytest.fixture
def authority() -> Iterator[tuple[Path, Path]]:
    """An authority as the documentation says that one is made."""
    page = Path(__file__).parents[2] / "docs/how-to/use-your-own-authority.md"
    with tempfile.TemporaryDirectory(prefix="nacre-") as folder:
        (commands,) = re.findall(r"```sh\n(openssl .*?)```", page.read_text(), re.DOTALL)
        subprocess.run(["sh", "-ec", commands], cwd=folder, check=True, capture_output=True, timeout=60)
        yield Path(folder) / "ca.pem", Path(folder) / "ca.key"


def test_your_own_authority_signs_what_nodes_and_gateways_show(authority: tuple[Path, Path]) -> None:
    certificate, key = authority
    with platform(ca_certificate_file=str(certificate), ca_key_file=str(key)) as cloud:
        assert node(cloud)["state"] == "ready"
        identity = cloud.root / "agent-0/identity"
        assert (identity / "roots.pem").read_text().strip() == certificate.read_text().strip()
        argv = ["openssl", "verify", "-x509_strict", "-CAfile", str(certificate), str(identity / "node.pem")]
        subprocess.run(argv, check=True, capture_output=True, timeout=30)
        key.unlink()  # it is in the database now, sealed
        config = cloud.root / "control-0.toml"
        config.write_text(
            "".join(line for line in config.read_text().splitlines(keepends=True) if not line.startswith("ca_key_file"))
        )
        cloud.control.terminate()
        cloud.control.start()
        cloud.agent.kill()
        cloud.agent.start()
        eventually(lambda: events(cloud, "node.connected") >= 2, what=f"back\n{cloud.agent.tail()}")

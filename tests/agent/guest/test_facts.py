"""What a guest says becomes facts, and what it makes up becomes nothing worse."""

import os
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from nacre.agent.guest import facts
from nacre.agent.guest.qga import GuestAgent
from nacre.agent.hypervisors.doors import Door
from nacre.model.guests import GuestAddress, GuestFilesystem
from support.guest_agent import FakeAgent, serving

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NICS = {"52:4e:00:00:00:01": "nic0"}


@pytest.fixture
def fake() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
async def agent(fake: FakeAgent, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[GuestAgent]:
    async with serving(fake, tmp_path / "ga") as socket:
        client = GuestAgent(Door(socket, os.getpid()))
        yield client
        client.close()


async def test_a_guest_is_described(agent: GuestAgent) -> None:
    seen = await facts.look(agent, NICS, NOW)
    assert (seen.info.hostname, seen.info.os, seen.info.kernel) == ("web-1", "Debian GNU/Linux 12", "6.1")
    assert seen.info.agent_version == "7.2.0"
    assert seen.info.addresses == (
        GuestAddress(address="10.0.2.15", prefix=24, interface="eth0", mac="52:4e:00:00:00:01", nic="nic0"),
    )
    assert seen.info.filesystems == (GuestFilesystem(mountpoint="/", type="ext4", total_bytes=4000),)
    assert (seen.figures.disk_used_bytes, seen.figures.disk_total_bytes) == (1000, 4000)
    assert not seen.frozen


async def test_only_what_an_agent_offers_is_asked(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.offered = ("guest-sync-delimited", "guest-info", "guest-get-host-name")
    seen = await facts.look(agent, NICS, NOW)
    assert (seen.info.hostname, seen.info.os, seen.info.addresses) == ("web-1", "", ())
    assert fake.commands == ["guest-info", "guest-get-host-name"]


async def test_a_frozen_guest_is_asked_nothing_that_it_cannot_answer(fake: FakeAgent, agent: GuestAgent) -> None:
    fake.frozen = True
    assert (await facts.look(agent, NICS, NOW)).frozen
    assert fake.commands == ["guest-info", "guest-fsfreeze-status"]


@pytest.mark.parametrize(
    "lie",
    [
        {
            "guest-network-get-interfaces": [
                {"name": 7, "ip-addresses": [{"ip-address": "1.2.3.4", "prefix": 99}, 5]},
                3,
            ]
        },
        {"guest-network-get-interfaces": [{"name": "x", "ip-addresses": [{"ip-address": "../../etc", "prefix": 1}]}]},
        {"guest-network-get-interfaces": {"name": "x"}},
        {"guest-get-osinfo": ["nothing"], "guest-get-host-name": {"host-name": {"a": 1}}},
        {"guest-get-fsinfo": [{"total-bytes": 1 << 80, "used-bytes": -1, "type": None}]},
    ],
)
async def test_what_has_another_shape_is_left_out(fake: FakeAgent, agent: GuestAgent, lie: dict[str, object]) -> None:
    fake.answers |= lie
    seen = await facts.look(agent, NICS, NOW)
    assert all(one.address == "10.0.2.15" for one in seen.info.addresses)
    msgspec.msgpack.encode(seen.info)  # fits the wire


async def test_lists_and_texts_are_cut(fake: FakeAgent, agent: GuestAgent) -> None:
    many = [{"ip-address": f"10.0.{n // 250}.{n % 250}", "prefix": 24} for n in range(1000)]
    fake.answers |= {
        "guest-network-get-interfaces": [{"name": "eth0", "ip-addresses": many}],
        "guest-get-host-name": {"host-name": "\x1b[31m" + "h" * 10_000},
    }
    seen = await facts.look(agent, NICS, NOW)
    assert len(seen.info.addresses) == facts.MAX_ADDRESSES
    assert len(seen.info.hostname) == 255
    assert seen.info.hostname.isprintable()


async def test_a_change_is_told_and_the_passing_of_time_is_not(agent: GuestAgent) -> None:
    first = msgspec.structs.replace((await facts.look(agent, NICS, NOW)).info, booted_at=NOW)
    later = NOW + timedelta(seconds=30)
    same = msgspec.structs.replace(first, seen_at=later, booted_at=NOW + timedelta(seconds=1))
    assert facts.settled(first, same) is first
    renamed = msgspec.structs.replace(same, hostname="web-2")
    assert facts.settled(first, renamed) == msgspec.structs.replace(renamed, booted_at=NOW)
    rebooted = msgspec.structs.replace(same, booted_at=later)
    assert facts.settled(first, rebooted).booted_at == later

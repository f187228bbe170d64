"""The agent's link against a real gateway: kept up, replaced when it breaks, and never a reason to stop working."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import structlog
from structlog.testing import capture_logs

from nacre.agent.identity import Identity, IdentityFiles
from nacre.agent.link import Link
from nacre.control.gateway import observed
from nacre.control.gateway.database import DatabaseLedger
from nacre.control.services import images
from nacre.control.store.db import Database
from nacre.control.wake import node_topic
from nacre.errors import InvalidInputError, NacreError, UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.ids import ImageId, NodeId, VmId
from nacre.model.images import Role
from nacre.model.nodes import Condition, ConditionKind
from nacre.model.vms import Phase, VmObserved
from nacre.protocol.messages import NodeIntent, Observed, Rotated
from support.certificates import issue_as_before
from support.cloud import facts
from support.linking import DAY, Host, Replica, instance, linked, replica
from support.platform import free_port
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on; its TLS is not the standard library's."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def gate(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Replica]:
    async with replica(sqlite_database, tmp_path) as running:
        yield running


@pytest.fixture
async def enrolled(gate: Replica, tmp_path: Path) -> tuple[Identity, IdentityFiles]:
    return await gate.enrolled(tmp_path / "identity")


@pytest.fixture
def host() -> Host:
    return Host()


def seen(vm: str, phase: Phase, generation: int = 1) -> VmObserved:
    return VmObserved(id=VmId(vm), generation=generation, phase=phase, since=datetime.now(UTC))


@pytest.fixture
def reported(monkeypatch: pytest.MonkeyPatch) -> list[Observed]:
    """What the control plane was told, in order, on its way to being stored."""
    told: list[Observed] = []

    async def note(_self: DatabaseLedger, _node: NodeId, _instance: str, message: Observed) -> None:
        told.append(message)

    monkeypatch.setattr(DatabaseLedger, "observed", note)
    return told


# While the link is up


async def test_a_node_pulls_reports_and_lives(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, clock: ManualClock
) -> None:
    node = enrolled[0].node
    async with linked(gate, *enrolled, host) as link:
        await until(lambda: host.told)
        assert host.intent == NodeIntent(tenure=1)
        assert link.is_up
        host.wrong = (Condition(kind=ConditionKind.DISK_PRESSURE, message="full", hint="make room", since=clock.now()),)
        host.facts_now = facts(cpus=77)

        async def lives() -> bool:
            row = await gate.node(node)
            return row.conditions == host.wrong and row.facts == host.facts_now and row.observed_sequence == 1

        await until(lives)


async def test_a_ring_brings_the_new_state_at_once(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = NodeIntent()

    async def desired(_self: DatabaseLedger, _node: NodeId, **_options: object) -> NodeIntent:
        return wanted

    monkeypatch.setattr(DatabaseLedger, "desired", desired)
    async with linked(gate, *enrolled, host):
        await until(lambda: host.intent == wanted)
        wanted = NodeIntent(images=(ImageId("img-1"),))
        async with gate.db.write() as tx:
            tx.wake(node_topic(enrolled[0].node))
        await until(lambda: host.intent == wanted)


async def test_rings_that_come_during_a_pull_make_one_more_pull(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    pulls, gates = 0, asyncio.Event()

    async def slowly(_self: DatabaseLedger, _node: NodeId, **_options: object) -> NodeIntent:
        nonlocal pulls
        pulls += 1
        await gates.wait()
        return NodeIntent(images=(ImageId(f"img-{pulls}"),))

    monkeypatch.setattr(DatabaseLedger, "desired", slowly)
    async with linked(gate, *enrolled, host):
        await until(lambda: pulls == 1)
        for _ in range(50):
            gate.db.wakes.ring(node_topic(enrolled[0].node))
            await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        gates.set()
        await until(lambda: host.intent == NodeIntent(images=(ImageId("img-2"),)))
        await asyncio.sleep(0.1)
        assert pulls <= 3


async def test_a_node_asks_and_reports_on_its_own_now_and_then(
    sqlite_database: Database, tmp_path: Path, host: Host, reported: list[Observed]
) -> None:
    async with replica(sqlite_database, tmp_path, resync_s=0.1) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
        async with linked(gate, *enrolled, host):
            await until(lambda: len(host.told) >= 3)
            await until(lambda: len([message for message in reported if message.complete]) >= 3)
            assert host.told[-1].intent is None  # the digest still holds


async def test_changes_are_told_at_once_and_in_order(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, reported: list[Observed]
) -> None:
    async with linked(gate, *enrolled, host) as link:
        await until(lambda: reported)
        link.observe((seen("vm-1", Phase.STARTING),))
        link.observe((seen("vm-1", Phase.RUNNING), seen("vm-2", Phase.STARTING)))
        await until(lambda: len(reported) >= 3)
        phases = [vm.phase for message in reported for vm in message.vms if vm.id == "vm-1"]
        assert phases == [Phase.STARTING, Phase.RUNNING]
        assert [message.sequence for message in reported] == list(range(1, len(reported) + 1))


# When it breaks


async def test_what_happens_while_the_link_is_down_is_told_when_it_is_back(
    sqlite_database: Database, tmp_path: Path, host: Host, reported: list[Observed]
) -> None:
    port = free_port()
    async with replica(sqlite_database, tmp_path, port=port) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
    async with linked(gate, *enrolled, host) as link:
        link.observe((seen("vm-1", Phase.CRASHED),))
        link.observe((seen("vm-1", Phase.RUNNING),))
        host.vms = (seen("vm-1", Phase.RUNNING),)
        assert not link.is_up
        async with replica(sqlite_database, tmp_path, port=port):
            await until(lambda: len(reported) == 3)
            assert [message.vms[0].phase for message in reported] == [Phase.CRASHED, Phase.RUNNING, Phase.RUNNING]
            assert [message.complete for message in reported] == [False, False, True]


async def test_facts_whose_acknowledgement_was_lost_are_told_again_under_the_same_number(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Observed] = []
    stored: list[bool] = []

    async def store_and_die(_self: DatabaseLedger, node: NodeId, name: str, message: Observed) -> None:
        told.append(message)
        stored.append(await observed.apply(gate.db, node, message, instance=name))
        if message.vms and len(told) == 2:
            raise RuntimeError("the database went away after the commit")

    monkeypatch.setattr(DatabaseLedger, "observed", store_and_die)
    async with linked(gate, *enrolled, host, name=instance(gate.db)) as link:
        await until(lambda: len(told) == 1)
        link.observe((seen("vm-1", Phase.RUNNING),))
        await until(lambda: len(told) >= 4)
        assert told[1] == told[2]
        assert (told[3].complete, told[3].sequence) == (True, 3)


async def test_a_killed_server_is_found_again_when_it_is_back(
    sqlite_database: Database, tmp_path: Path, host: Host
) -> None:
    port = free_port()
    async with replica(sqlite_database, tmp_path, port=port) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
        running = linked(gate, *enrolled, host)
        link = await running.__aenter__()
        await until(lambda: link.is_up)
    try:
        for _ in range(3):
            await until(lambda: not link.is_up)
            async with replica(sqlite_database, tmp_path, port=port) as again:
                await until(lambda: again.gateway.linked)
    finally:
        await running.__aexit__(None, None, None)


async def test_many_agents_do_not_come_back_in_step(sqlite_database: Database, tmp_path: Path, host: Host) -> None:
    source = random.Random(7)
    async with replica(sqlite_database, tmp_path) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
    links = [Link(*enrolled, host, gate.db.clock, source.random, f"run-{number}") for number in range(20)]
    waits = [[link._backoff.next() for _ in range(8)] for link in links]
    assert len({round(wait[0], 4) for wait in waits}) == 20
    assert all(0.12 <= wait[0] <= 0.25 for wait in waits)
    assert all(7.5 <= wait[-1] <= 15 for wait in waits)


async def test_a_silent_connection_is_given_up(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that takes everything and answers nothing: the ack never comes."""
    hangs = asyncio.Event()

    async def hang(_self: DatabaseLedger, _node: NodeId, _instance: str, _message: Observed) -> None:
        if not hangs.is_set():
            hangs.set()
            await asyncio.sleep(60)

    monkeypatch.setattr(DatabaseLedger, "observed", hang)
    monkeypatch.setattr("nacre.agent.session.ACK_TIMEOUT_S", 0.2)
    async with linked(gate, *enrolled, host) as link:
        await until(hangs.is_set)
        await until(lambda: not link.is_up)
        await until(lambda: link.is_up)


@dataclass
class Deaf:
    """A listener that accepts connections and never says a word."""

    address: str
    dropped: int = 0
    """How many connections have been given up by whoever made them."""


@asynccontextmanager
async def deaf_listener(port: int = 0) -> AsyncGenerator[Deaf]:
    made = Deaf("")

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            await reader.read()
        made.dropped += 1
        writer.close()

    server = await asyncio.start_server(ignore, "127.0.0.1", port)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield made


async def test_a_server_that_came_back_deaf_and_then_well_is_found_again(
    sqlite_database: Database, tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the end of the first connection leaves behind must not turn a later time-out into the end of the link."""
    monkeypatch.setattr("nacre.agent.dialer.OPEN_TIMEOUT_S", 0.2)
    port = free_port()
    async with replica(sqlite_database, tmp_path, port=port) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
        running = linked(gate, *enrolled, host)
        link = await running.__aenter__()
        await until(lambda: link.is_up)
    try:
        await until(lambda: not link.is_up)
        async with deaf_listener(port) as deaf:
            await until(lambda: deaf.dropped >= 2)
        async with replica(sqlite_database, tmp_path, port=port) as again:
            await until(lambda: again.gateway.linked)
    finally:
        await running.__aexit__(None, None, None)


async def test_the_next_address_is_tried_when_one_is_dead_deaf_or_an_impostor(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacre.agent.dialer.OPEN_TIMEOUT_S", 2)  # for the good one as well
    async with deaf_listener() as deaf:
        known = (f"127.0.0.1:{free_port()}", deaf.address, "nowhere.invalid:1", gate.address)
        identity = replace(enrolled[0], gateways=known)
        async with linked(gate, identity, enrolled[1], host) as link:
            await until(lambda: link.is_up)
            assert link._addresses()[0] == gate.address


async def test_being_down_is_said_once_and_coming_back_once(
    sqlite_database: Database, tmp_path: Path, host: Host
) -> None:
    port = free_port()
    async with replica(sqlite_database, tmp_path, port=port) as gate:
        enrolled = await gate.enrolled(tmp_path / "identity")
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with linked(gate, *enrolled, host) as link:
            await until(lambda: link._backoff.attempts >= 3)
            async with replica(sqlite_database, tmp_path, port=port):
                await until(lambda: link.is_up)
    agent = [entry for entry in logs if "address" in entry]
    down = [entry for entry in agent if entry["event"] == "link.down"]
    assert [entry["code"] for entry in down][:1] == ["control_plane_unreachable"]
    assert len([entry for entry in down if entry["code"] == "control_plane_unreachable"]) <= 2
    assert len([entry for entry in agent if entry["event"] == "link.up"]) == 1
    assert down[0]["hint"]


async def test_a_no_for_good_is_asked_again_seldom(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host
) -> None:
    await gate.remove(enrolled[0].node)
    structlog.reset_defaults()
    with capture_logs() as logs:
        link = Link(*enrolled, host, gate.db.clock, lambda: 0.5, "run-1")
        assert 30 <= await link._once() <= 60
        assert 30 <= await link._once() <= 60
    said = [entry for entry in logs if entry["event"] == "link.down"]
    assert [entry["code"] for entry in said] == ["node_removed"]
    assert "nacre node token" in said[0]["hint"]


async def test_an_agent_whose_certificate_ran_out_is_told_how_to_come_back(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, clock: ManualClock
) -> None:
    clock.jump(91 * DAY)
    link = Link(*enrolled, host, gate.db.clock, lambda: 0.5, "run-1")
    with pytest.raises(NacreError) as refused:
        await link._connect(gate.address)
    assert refused.value.code == "certificate_expired"


async def test_an_older_instance_gives_way_to_a_newer_one(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, clock: ManualClock
) -> None:
    old_name = instance(gate.db)
    clock.advance(1)
    async with linked(gate, *enrolled, host, name=old_name) as old:
        await until(lambda: old.is_up)
        newer = Host()
        async with linked(gate, *enrolled, newer) as new:
            await until(lambda: newer.told)
            await until(lambda: not old.is_up)
            await asyncio.sleep(0.5)
            assert new.is_up
            assert not old.is_up


async def test_a_defect_in_the_agent_is_logged_and_the_link_comes_back(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = host.on_desired
    broken = True

    async def fail(state: object) -> None:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError
        await taken(state)  # type: ignore[arg-type]

    monkeypatch.setattr(host, "on_desired", fail)
    async with linked(gate, *enrolled, host):
        await until(lambda: host.told)
    assert not broken


# The certificate


async def test_the_certificate_is_rotated_at_two_thirds_of_its_life_and_the_link_stays(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, clock: ManualClock
) -> None:
    identity, files = enrolled
    async with linked(gate, identity, files, host) as link:
        await until(lambda: link.is_up)
        session = link._session
        clock.jump(59 * DAY)
        await asyncio.sleep(0.3)
        assert files.load() == identity
        clock.jump(2 * DAY)

        def rotated() -> bool:
            now = files.load()
            return now is not None and now.expires_at > identity.expires_at

        await until(rotated)
        await until(lambda: link._dialer.identity == files.load())
        assert link._session is session
        clock.jump(40 * DAY)  # past the end of the first certificate
        await asyncio.sleep(0.5)
        assert link._session is session
        assert gate.gateway.linked == {identity.node}


@pytest.mark.parametrize("still", [False, True], ids=["newer control plane", "older control plane"])
async def test_a_certificate_that_is_not_for_being_called_is_replaced_at_once_and_once(
    gate: Replica,
    enrolled: tuple[Identity, IdentityFiles],
    host: Host,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    still: bool,
) -> None:
    asked, rotate = 0, DatabaseLedger.rotate

    async def counting(self: DatabaseLedger, node: NodeId, csr_pem: str) -> object:
        nonlocal asked
        asked += 1
        return await rotate(self, node, csr_pem)

    monkeypatch.setattr(DatabaseLedger, "rotate", counting)
    if still:
        issue_as_before(monkeypatch)
    identity, files = enrolled
    async with linked(gate, replace(identity, serves=False), files, host) as link:
        await until(lambda: asked == 1)
        await until(lambda: link._dialer.identity == files.load())
        assert link._dialer.identity.serves is not still
        clock.jump(DAY)
        beats = gate.gateway.linked
        await asyncio.sleep(0.5)
        assert (asked, beats) == (1, {identity.node})


async def test_a_rotation_that_is_refused_is_tried_later_and_the_link_stays(
    gate: Replica,
    enrolled: tuple[Identity, IdentityFiles],
    host: Host,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = 0
    rotate = DatabaseLedger.rotate

    async def sometimes(self: DatabaseLedger, node: NodeId, csr_pem: str) -> object:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise InvalidInputError("invalid_csr", "no", hint="why")
        if asked == 2:
            answer, peer = await rotate(self, node, csr_pem)
            return Rotated(certificate_pem="half a", roots_pem=answer.roots_pem), peer
        return await rotate(self, node, csr_pem)

    monkeypatch.setattr(DatabaseLedger, "rotate", sometimes)
    identity, files = enrolled
    async with linked(gate, identity, files, host) as link:
        await until(lambda: link.is_up)
        session = link._session
        clock.jump(61 * DAY)
        for times in (1, 2):
            await until(lambda: asked == times)  # noqa: B023
            await asyncio.sleep(0.3)
            assert asked == times
            assert files.load() == identity
            clock.jump(601)
        await until(lambda: files.load() != identity)
        assert link._session is session


# Images


async def test_an_artifact_is_fetched_from_any_offset(
    gate: Replica,
    enrolled: tuple[Identity, IdentityFiles],
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    content = random.Random(1).randbytes(3_000_001)
    path = tmp_path / "kernel"
    path.write_bytes(content)

    async def artifact(_self: DatabaseLedger, _node: NodeId, _image: ImageId, _role: Role) -> Path:
        return path

    monkeypatch.setattr(DatabaseLedger, "artifact", artifact)
    async with linked(gate, *enrolled, host) as link:

        async def fetched(offset: int) -> bytes:
            return b"".join([chunk async for chunk in link.fetch_artifact(ImageId("img-1"), Role.KERNEL, offset)])

        assert await fetched(0) == content
        assert await fetched(1_234_567) == content[1_234_567:]
        assert await fetched(len(content)) == b""
        with pytest.raises(NacreError) as refused:
            await fetched(len(content) + 1)
        assert refused.value.code == "offset_out_of_range"


async def test_an_artifact_that_is_cut_short_is_not_taken_for_whole(
    gate: Replica,
    enrolled: tuple[Identity, IdentityFiles],
    host: Host,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"x" * 50_000_000)

    async def artifact(_self: DatabaseLedger, _node: NodeId, _image: ImageId, _role: Role) -> Path:
        return path

    monkeypatch.setattr(DatabaseLedger, "artifact", artifact)
    async with linked(gate, *enrolled, host) as link:
        got = 0
        with pytest.raises(UnavailableError) as cut:  # noqa: PT012
            async for chunk in link.fetch_artifact(ImageId("img-1"), Role.KERNEL, 0):
                got += len(chunk)
                if got == len(chunk):
                    path.write_bytes(b"")
    assert cut.value.retryable
    assert 0 < got < 50_000_000


async def test_a_node_gets_images_of_its_own_machines_only(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def anything(*_: object) -> Path:
        raise AssertionError("asked for the file of an image that no machine of the node boots from")

    monkeypatch.setattr(images, "artifact_path", anything)
    async with linked(gate, *enrolled, host) as link:
        with pytest.raises(NacreError) as refused:
            await anext(link.fetch_artifact(ImageId("img-1"), Role.DISK, 0))
    assert refused.value.code == "artifact_not_found"


async def test_facts_reach_the_control_plane_quickly(
    gate: Replica, enrolled: tuple[Identity, IdentityFiles], host: Host, reported: list[Observed]
) -> None:
    async with linked(gate, *enrolled, host) as link:
        await until(lambda: reported)
        took: list[float] = []
        for number in range(20):
            began, before = time.perf_counter(), len(reported)
            link.observe((msgspec.structs.replace(seen("vm-1", Phase.RUNNING), generation=number),))
            await until(lambda: len(reported) > before, every=0.001)  # noqa: B023
            took.append(time.perf_counter() - began)
        assert sorted(took)[10] < 0.1

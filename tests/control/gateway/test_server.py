"""Who may connect to the gateway and who may not, with real TLS, and how it answers what no agent of ours sends."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidMessage

from nacre.agent.dialer import opened, unverified
from nacre.agent.identity import Identity, SigningKey
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.gateway.server import certificate_hosts
from nacre.control.store import ca as certificates
from nacre.control.store.db import Database
from nacre.control.wake import node_topic
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from nacre.model.nodes import ConditionKind, NodeState
from nacre.protocol import codec, paths
from nacre.protocol.messages import (
    DesiredState,
    Enrol,
    Enrolled,
    GetArtifact,
    Heartbeat,
    NodeIntent,
    Observed,
    ObservedAck,
    Pull,
    Rotate,
    Rotated,
    Wake,
)
from support.cloud import facts
from support.linking import (
    USAGE,
    Replica,
    dialled,
    greeted,
    hear,
    hello,
    refused,
    replica,
    say,
)
from support.patience import within
from support.waiting import until

pytestmark = pytest.mark.anyio

ROLE = "kernel"


@pytest.fixture
async def gate(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Replica]:
    async with replica(sqlite_database, tmp_path) as running:
        yield running


@pytest.fixture
async def enrolled(gate: Replica, tmp_path: Path) -> Identity:
    identity, _ = await gate.enrolled(tmp_path / "identity")
    return identity


def dial(gate: Replica, identity: Identity | None = None, path: str = paths.AGENT):
    return dialled(gate.address, path, gate.ca.roots_pem, identity.pair if identity else None)


# Who may connect


async def test_an_agent_is_welcomed_with_the_terms(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        welcome = await greeted(connection, gate.db, enrolled.node)
        assert (welcome.version, welcome.heartbeat_s, welcome.resync_s) == (1, 0.1, 30.0)
        assert gate.gateway.linked == {enrolled.node}
        assert (await gate.node(enrolled.node)).state is NodeState.READY
    await until(lambda: not gate.gateway.linked)


@pytest.mark.parametrize("path", [paths.AGENT, paths.ARTIFACT, "/stream/str-x", "/anything"])
async def test_nobody_without_a_certificate_gets_past_enrolment(gate: Replica, path: str) -> None:
    async with dial(gate, path=path) as connection:
        assert (await refused(connection)).code == "certificate_required"


async def test_an_agent_that_claims_to_be_another_node_is_refused(
    gate: Replica, enrolled: Identity, tmp_path: Path
) -> None:
    other, _ = await gate.enrolled(tmp_path / "other")
    async with dial(gate, enrolled) as connection:
        await say(connection, hello(gate.db, other.node))
        assert (await refused(connection)).code == "node_mismatch"
    assert (await gate.node(other.node)).state is NodeState.ENROLLING


async def shown(gate: Replica, pair: Path) -> bool:
    """Whether TLS lets somebody with this certificate in."""
    try:
        async with dialled(gate.address, paths.AGENT, gate.ca.roots_pem, pair) as connection:
            await connection.recv()
    except (OSError, InvalidMessage, ConnectionClosed):
        return False
    return True


def pair_of(folder: Path, key: SigningKey, certificate_pem: str) -> Path:
    path = folder / "pair.pem"
    path.write_bytes(key.pem + certificate_pem.encode())
    return path


async def test_a_certificate_of_another_authority_is_refused(
    gate: Replica, enrolled: Identity, tmp_path: Path, clock: ManualClock
) -> None:
    from nacre.control.auth import ca as module

    certificate, root_key = module._made(gate.ca.domain, clock.now())
    foreign = CertificateAuthority(certificate, root_key, gate.ca.domain)
    key = SigningKey.generate()
    async with gate.db.write() as tx:
        issued = await foreign.issue_node(tx, key.request_pem(), enrolled.node, 3600)
    assert not await shown(gate, pair_of(tmp_path, key, issued.certificate_pem))


async def test_an_expired_certificate_is_refused(
    gate: Replica, enrolled: Identity, tmp_path: Path, clock: ManualClock
) -> None:
    key = SigningKey.generate()
    clock.jump(-200)
    async with gate.db.write() as tx:
        issued = await gate.ca.issue_node(tx, key.request_pem(), enrolled.node, 100)
    clock.jump(200)
    assert not await shown(gate, pair_of(tmp_path, key, issued.certificate_pem))


async def test_a_certificate_that_ends_by_our_clock_is_refused_although_tls_accepts_it(
    gate: Replica, enrolled: Identity, clock: ManualClock
) -> None:
    clock.jump(91 * 86400)
    async with dial(gate, enrolled) as connection:
        assert (await refused(connection)).code == "certificate_expired"


async def test_the_gateways_own_kind_of_certificate_does_not_pass_for_a_node(
    gate: Replica, tmp_path: Path, clock: ManualClock
) -> None:
    made = gate.ca.issue_server(("localhost",), clock.now(), timedelta(days=1))
    path = tmp_path / "server.pem"
    path.write_bytes(made.key_pem + made.chain_pem)
    assert not await shown(gate, path)


async def test_a_removed_node_is_dropped_and_not_let_in_again(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        await gate.remove(enrolled.node)
        messages = [await hear(connection), await hear(connection)]
        assert isinstance(messages[0], Wake)
        assert messages[1].code == "node_removed"  # type: ignore[union-attr]
    async with dial(gate, enrolled) as connection:
        assert (await refused(connection)).code == "node_removed"


async def test_a_revoked_certificate_is_dropped_and_not_let_in_again(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        async with gate.db.write() as tx:
            await certificates.revoke(tx, enrolled.node)
        assert (await refused(connection)).code == "certificate_revoked"
    async with dial(gate, enrolled) as connection:
        assert (await refused(connection)).code == "certificate_revoked"


async def test_a_link_that_outlives_its_certificate_is_dropped(
    gate: Replica, enrolled: Identity, clock: ManualClock
) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        clock.jump(91 * 86400)
        assert (await refused(connection)).code == "certificate_expired"


async def test_a_certificate_that_a_restored_database_does_not_know_is_good(gate: Replica, enrolled: Identity) -> None:
    async with gate.db.write() as tx:
        await tx.connection.execute(certificates.node_certificates.delete())
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)


async def test_the_gateway_shows_a_new_certificate_to_new_connections_while_old_ones_stay(
    gate: Replica, enrolled: Identity, clock: ManualClock
) -> None:
    async with dial(gate, enrolled) as old:
        await greeted(old, gate.db, enrolled.node)
        before = old.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        clock.jump(25 * 86400)

        async def renewed() -> bool:
            async with opened(gate.address, paths.ROOTS, unverified()) as fresh:  # the host's clock did not jump
                return fresh.transport.get_extra_info("ssl_object").getpeercert(binary_form=True) != before

        await until(renewed)
        await say(old, Pull())
        assert isinstance(await hear(old), DesiredState)


async def test_old_tls_is_not_spoken(gate: Replica) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=gate.ca.roots_pem)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    host, _, port = gate.address.rpartition(":")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(host, int(port), ssl=context)


# Enrolment


async def test_the_same_token_and_key_give_the_same_node_again(gate: Replica) -> None:
    joining, key = await gate.join(), SigningKey.generate()
    given: list[Enrolled] = []
    for _ in range(2):
        async with dial(gate, path=paths.ENROL) as connection:
            await say(connection, Enrol(token=joining.secret, csr_pem=key.request_pem(), name="host"))
            answer = await hear(connection)
            assert isinstance(answer, Enrolled)
            given.append(answer)
    assert given[0].node == given[1].node
    assert given[0].certificate_pem != given[1].certificate_pem


async def enrol(gate: Replica, token: str, csr_pem: str | None = None) -> str:
    """The code of the refusal."""
    async with dial(gate, path=paths.ENROL) as connection:
        await say(connection, Enrol(token=token, csr_pem=csr_pem or SigningKey.generate().request_pem(), name="host"))
        return (await refused(connection)).code


async def test_a_used_token_does_not_let_another_key_in(gate: Replica, tmp_path: Path) -> None:
    joining = await gate.join()
    async with dial(gate, path=paths.ENROL) as connection:
        await say(connection, Enrol(token=joining.secret, csr_pem=SigningKey.generate().request_pem(), name="host"))
        assert isinstance(await hear(connection), Enrolled)
    assert await enrol(gate, joining.secret) == "enrolment_token_used"


async def test_an_expired_token_lets_nobody_in(gate: Replica, clock: ManualClock) -> None:
    joining = await gate.join(ttl_s=60)
    clock.jump(61)
    assert await enrol(gate, joining.secret) == "enrolment_token_expired"


async def test_an_unknown_token_and_a_bad_request_let_nobody_in(gate: Replica) -> None:
    assert await enrol(gate, "guess") == "enrolment_token_unknown"
    joining = await gate.join()
    assert await enrol(gate, joining.secret, "not a request") == "invalid_csr"
    async with dial(gate, path=paths.ENROL) as connection:  # the token is still good
        await say(connection, Enrol(token=joining.secret, csr_pem=SigningKey.generate().request_pem(), name="host"))
        assert isinstance(await hear(connection), Enrolled)


async def test_a_stranger_may_not_send_much(gate: Replica) -> None:
    async with dial(gate, path=paths.ENROL) as connection:
        await say(connection, b"x" * (65 << 10))
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


# What no agent of ours would send


async def test_an_agent_from_the_future_is_told_what_to_upgrade(gate: Replica, enrolled: Identity) -> None:
    for newest, oldest, hint in ((9, 8, "control plane"), (0, 0, "agent")):
        async with dial(gate, enrolled) as connection:
            await say(connection, hello(gate.db, enrolled.node, newest=newest, oldest=oldest))
            no = await refused(connection)
        assert no.code == "protocol_version"
        assert no.hint == f"upgrade the {hint}"
    async with dial(gate, enrolled) as connection:  # one that still speaks ours is fine
        assert (await greeted(connection, gate.db, enrolled.node, newest=9, oldest=1)).version == 1


@pytest.mark.parametrize(
    "frame",
    [b"", b"\xc1", b"GET / HTTP/1.1", b"\x81\xa1t\xa5hello", b"\x81\xa1t\xa4what", "text", codec.encode(Wake())],
)
async def test_garbage_is_refused_before_and_after_the_greeting(
    gate: Replica, enrolled: Identity, frame: bytes | str
) -> None:
    for greet in (False, True):
        async with dial(gate, enrolled) as connection:
            if greet:
                await greeted(connection, gate.db, enrolled.node)
            await say(connection, frame)
            assert (await refused(connection)).code == "unreadable_message"


async def test_messages_out_of_place_are_refused(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        await say(connection, Pull())
        assert (await refused(connection)).code == "unexpected_message"
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        await say(connection, hello(gate.db, enrolled.node))
        assert (await refused(connection)).code == "unexpected_message"
    async with dial(gate, enrolled, "/else") as connection:
        assert (await refused(connection)).code == "unknown_path"


async def test_an_oversized_frame_ends_the_connection_and_nothing_else(
    gate: Replica, enrolled: Identity, tmp_path: Path
) -> None:
    other, _ = await gate.enrolled(tmp_path / "other")
    async with dial(gate, other) as neighbour, dial(gate, enrolled) as connection:
        await greeted(neighbour, gate.db, other.node)
        await greeted(connection, gate.db, enrolled.node)
        sending = asyncio.create_task(connection.send(b"x" * (codec.MAX_MESSAGE_BYTES + 1)))
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        await asyncio.wait([sending])
        sending.exception()
        await say(neighbour, Pull())
        assert isinstance(await hear(neighbour), DesiredState)


async def test_raw_bytes_on_the_port_disturb_nobody(gate: Replica, enrolled: Identity) -> None:
    host, _, port = gate.address.rpartition(":")
    for junk in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 64, b""):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(junk)
        writer.close()
        await writer.wait_closed()
        del reader
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)


async def test_an_agent_that_takes_nothing_is_cut_off_and_others_are_served(
    gate: Replica, enrolled: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, _ = await gate.enrolled(tmp_path / "other")
    monkeypatch.setattr("nacre.control.gateway.wire.send.__defaults__", (0.5,))
    big = NodeIntent(images=tuple(f"img-{number:026}" for number in range(200_000)))  # type: ignore[arg-type]

    async def much(_node: NodeId, **_options: object) -> NodeIntent:
        return big if _node == enrolled.node else NodeIntent()

    monkeypatch.setattr(gate.gateway._ledger, "desired", much)
    async with dialled(gate.address, paths.AGENT, gate.ca.roots_pem, enrolled.pair, max_queue=1, max_size=None) as slow:
        await greeted(slow, gate.db, enrolled.node)
        slow.transport.pause_reading()
        for _ in range(4):
            await say(slow, Pull())
        async with dial(gate, other) as quick:
            await greeted(quick, gate.db, other.node)
            await say(quick, Pull())
            assert isinstance(await hear(quick), DesiredState)
        await until(lambda: enrolled.node not in gate.gateway.linked)
        slow.transport.resume_reading()


# The newest connection of the newest instance


async def test_a_second_connection_takes_the_place_of_the_first(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as first, dial(gate, enrolled) as second:
        await greeted(first, gate.db, enrolled.node, instance="run-1")
        await greeted(second, gate.db, enrolled.node, instance="run-1")
        assert (await refused(first)).code == "link_replaced"
        await say(second, Pull())
        assert isinstance(await hear(second), DesiredState)
        assert gate.gateway.linked == {enrolled.node}


async def test_an_older_instance_does_not_take_the_place_of_a_newer_one(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as new:
        await greeted(new, gate.db, enrolled.node, instance="run-2")
        async with dial(gate, enrolled) as old:
            await say(old, hello(gate.db, enrolled.node, instance="run-1"))
            assert (await refused(old)).code == "instance_superseded"
        await say(new, Pull())
        assert isinstance(await hear(new), DesiredState)
        assert (await gate.node(enrolled.node)).instance == "run-2"
    await until(lambda: not gate.gateway.linked)
    async with dial(gate, enrolled) as old:  # with the newer one gone, it is welcome: clocks may have jumped back
        await greeted(old, gate.db, enrolled.node, instance="run-1")


# The conversation


async def test_a_ring_wakes_the_agent_of_the_node_and_no_other(
    gate: Replica, enrolled: Identity, tmp_path: Path
) -> None:
    other, _ = await gate.enrolled(tmp_path / "other")
    async with dial(gate, enrolled) as connection, dial(gate, other) as neighbour:
        await greeted(connection, gate.db, enrolled.node)
        await greeted(neighbour, gate.db, other.node)
        async with gate.db.write() as tx:
            tx.wake(node_topic(enrolled.node))
        assert isinstance(await hear(connection), Wake)
        with pytest.raises(TimeoutError):
            await hear(neighbour, timeout=0.2)


async def test_a_pull_with_the_right_digest_gets_no_state_again(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        await say(connection, Pull())
        first = await hear(connection)
        assert isinstance(first, DesiredState)
        assert first.intent == NodeIntent(tenure=1)
        await say(connection, Pull(digest=first.digest))
        assert await hear(connection) == DesiredState(digest=first.digest, intent=None)


async def test_facts_are_acknowledged_once_they_are_stored(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        for sequence in (5, 3):  # an old one is ignored and acknowledged all the same
            await say(connection, Observed(sequence=sequence, digest="", complete=True))
            assert await hear(connection) == ObservedAck(sequence=sequence)
        assert (await gate.node(enrolled.node)).observed_sequence == 5


async def test_heartbeats_are_stored_and_a_wrong_clock_becomes_a_condition(
    gate: Replica, enrolled: Identity, clock: ManualClock
) -> None:
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        more = facts(cpus=99)
        await say(connection, Heartbeat(sent_at=clock.now(), usage=USAGE, facts=more))
        await say(connection, Heartbeat(sent_at=clock.now() - timedelta(seconds=9), usage=USAGE))

        async def skewed() -> bool:
            return [c.kind for c in (await gate.node(enrolled.node)).conditions] == [ConditionKind.CLOCK_SKEW]

        await until(skewed)
        row = await gate.node(enrolled.node)
        assert row.usage == USAGE
        assert row.facts == more
        assert "9 s behind" in row.conditions[0].message
        await say(connection, Heartbeat(sent_at=clock.now(), usage=USAGE))

        async def right() -> bool:
            return not (await gate.node(enrolled.node)).conditions

        await until(right)


async def test_a_certificate_is_rotated_over_the_link_which_stays(
    gate: Replica, enrolled: Identity, tmp_path: Path
) -> None:
    key = SigningKey.generate()
    async with dial(gate, enrolled) as connection:
        await greeted(connection, gate.db, enrolled.node)
        await say(connection, Rotate(csr_pem="nonsense"))
        no = await hear(connection)
        assert no.code == "invalid_csr"  # type: ignore[union-attr]
        await say(connection, Rotate(csr_pem=key.request_pem()))
        answer = await hear(connection)
        assert isinstance(answer, Rotated)
        await say(connection, Pull())
        assert isinstance(await hear(connection), DesiredState)
    pair = pair_of(tmp_path, key, answer.certificate_pem)
    async with dialled(gate.address, paths.AGENT, gate.ca.roots_pem, pair) as connection:
        await greeted(connection, gate.db, enrolled.node)


async def test_an_artifact_that_the_node_does_not_need_is_not_given(gate: Replica, enrolled: Identity) -> None:
    async with dial(gate, enrolled, paths.ARTIFACT) as connection:
        await say(connection, GetArtifact(image="img-1", role=ROLE))  # type: ignore[arg-type]
        header = await hear(connection)
        assert header.ok is False  # type: ignore[union-attr]
        assert header.code == "artifact_not_found"  # type: ignore[union-attr]


async def test_the_gateway_stops_while_agents_are_connected(sqlite_database: Database, tmp_path: Path) -> None:
    async with within(10), AsyncExitStack() as agents:
        async with replica(sqlite_database, tmp_path) as gate:
            identity, _ = await gate.enrolled(tmp_path / "identity")
            connection = await agents.enter_async_context(dial(gate, identity))
            await greeted(connection, gate.db, identity.node)
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001


async def test_the_gateway_stops_although_the_database_hangs(
    sqlite_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nacre.control.gateway.server._STOP_S", 0.2)
    asked = asyncio.Event()

    async def hang(_node: NodeId, **_options: object) -> NodeIntent:
        asked.set()
        await asyncio.sleep(60)
        return NodeIntent()

    async with within(10), AsyncExitStack() as agents, replica(sqlite_database, tmp_path) as gate:
        monkeypatch.setattr(gate.gateway._ledger, "desired", hang)
        identity, _ = await gate.enrolled(tmp_path / "identity")
        connection = await agents.enter_async_context(dial(gate, identity))
        await greeted(connection, gate.db, identity.node)
        await say(connection, Pull())
        await asked.wait()


def test_the_certificate_names_what_agents_dial() -> None:
    assert certificate_hosts("cloud.example:7481", "0.0.0.0:7481") == (
        "cloud.example",
        "localhost",
        "127.0.0.1",
        "::1",
    )
    assert certificate_hosts("[fd00::1]:7481", "[::]:7481")[0] == "fd00::1"

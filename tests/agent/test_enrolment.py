"""Becoming a node: over real TLS, pinned to a fingerprint, repeatable, patient with a control plane that is away."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from nacre.agent import enrolment
from nacre.agent.identity import IdentityFiles
from nacre.control.auth import ca
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.gateway.database import DatabaseLedger
from nacre.control.store.db import Database
from nacre.errors import NacreError
from nacre.lib.clock import ManualClock
from nacre.protocol.messages import Enrol, Enrolled
from support.linking import Replica, replica
from support.platform import free_port
from support.waiting import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def gate(sqlite_database: Database, tmp_path: Path) -> AsyncGenerator[Replica]:
    async with replica(sqlite_database, tmp_path) as running:
        yield running


@pytest.fixture
def files(tmp_path: Path) -> IdentityFiles:
    return IdentityFiles(tmp_path / "identity")


def random() -> float:
    return 0.0


async def test_a_node_joins_and_is_itself_ever_after(gate: Replica, files: IdentityFiles) -> None:
    join = await gate.join(name="alpha")
    identity = await enrolment.ensure_enrolled(files, join, "host.example", random)
    row = await gate.node(identity.node)
    assert (row.name, row.certificate_expires_at) == ("alpha", identity.expires_at)
    assert identity.gateways == (gate.address,)
    assert await enrolment.ensure_enrolled(files, None, "host.example", random) == identity


async def test_a_new_address_in_a_later_join_string_is_used(gate: Replica, files: IdentityFiles) -> None:
    join = await gate.join()
    before = await enrolment.ensure_enrolled(files, join, "host", random)
    moved = msgspec.structs.replace(join, gateway="10.0.0.1:1,10.0.0.2:2", secret="new")
    after = await enrolment.ensure_enrolled(files, moved, "host", random)
    assert after == replace(before, gateways=("10.0.0.1:1", "10.0.0.2:2"))


async def test_a_join_string_of_another_platform_does_not_move_the_node(gate: Replica, files: IdentityFiles) -> None:
    join = await gate.join()
    await enrolment.ensure_enrolled(files, join, "host", random)
    with pytest.raises(NacreError) as refused:
        await enrolment.ensure_enrolled(files, msgspec.structs.replace(join, ca="ab" * 32), "host", random)
    assert refused.value.code == "enrolled_elsewhere"


async def test_without_a_join_string_a_new_node_is_told_what_to_do(files: IdentityFiles) -> None:
    with pytest.raises(NacreError) as refused:
        await enrolment.ensure_enrolled(files, None, "host", random)
    assert refused.value.code == "not_enrolled"
    assert "nacre node token" in refused.value.hint


async def test_the_secret_is_not_given_to_a_control_plane_with_another_fingerprint(
    gate: Replica, files: IdentityFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Enrol] = []

    async def listen(_self: DatabaseLedger, request: Enrol) -> Enrolled:
        given.append(request)
        raise AssertionError

    monkeypatch.setattr(DatabaseLedger, "enrol", listen)
    join = msgspec.structs.replace(await gate.join(), ca="ab" * 32)
    with pytest.raises(NacreError) as refused:
        await enrolment.ensure_enrolled(files, join, "host", random)
    assert refused.value.code == "control_plane_not_trusted"
    assert not given


async def test_one_who_shows_the_right_root_but_cannot_use_it_is_not_believed(
    gate: Replica, files: IdentityFiles, clock: ManualClock
) -> None:
    """Anyone can get the root certificate; only the control plane has a certificate that it signed."""
    root, key = ca._made("impostor", clock.now())
    impostor = CertificateAuthority(root, key, "impostor")
    gate.gateway._tls._ca = impostor
    gate.gateway._tls._load(clock.now())
    with pytest.raises(NacreError) as refused:
        await enrolment.ensure_enrolled(files, await gate.join(), "host", random)
    assert refused.value.code == "control_plane_not_trusted"
    assert files.load() is None


async def test_a_crash_between_answer_and_disk_is_mended_by_doing_it_again(
    gate: Replica, files: IdentityFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    join = await gate.join()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(IdentityFiles, "save_enrolled", crash)
        with pytest.raises(KeyboardInterrupt):
            await enrolment.enrol(files, join, "host")
    identity = await enrolment.enrol(files, join, "host")
    assert (await gate.node(identity.node)).name == "host"


async def test_a_refused_token_is_final_and_says_why(gate: Replica, files: IdentityFiles, tmp_path: Path) -> None:
    join = await gate.join()
    await enrolment.enrol(IdentityFiles(tmp_path / "first"), join, "host")
    with pytest.raises(NacreError) as refused:
        await enrolment.ensure_enrolled(files, join, "host", random)
    assert refused.value.code == "enrolment_token_used"
    assert not refused.value.retryable
    assert "nacre node token" in refused.value.hint


async def test_a_control_plane_that_is_away_is_waited_for_and_the_second_address_is_tried(
    sqlite_database: Database, files: IdentityFiles, tmp_path: Path
) -> None:
    port = free_port()
    async with replica(sqlite_database, tmp_path, port=port) as gate:
        join = await gate.join()
    join = msgspec.structs.replace(join, gateway=f"127.0.0.1:{free_port()},{join.gateway}")
    joining = asyncio.create_task(enrolment.ensure_enrolled(files, join, "host", random))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(joining), 0.3)
    async with replica(sqlite_database, tmp_path, port=port):
        await until(joining.done)
    assert (await joining).gateways == join.gateways


@pytest.mark.parametrize("address", ["", "no port", "127.0.0.1:99999", "http://x:1", "[::1:1"])
async def test_an_address_that_is_none_is_refused(gate: Replica, files: IdentityFiles, address: str) -> None:
    join = msgspec.structs.replace(await gate.join(), gateway=address or " ")
    with pytest.raises(NacreError) as refused:
        await enrolment.enrol(files, join, "host")
    assert refused.value.code in {"invalid_address", "no_address"}

"""An identity on disk: private, whole at any moment, and never of somebody else."""

import os
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nacre.agent.dialer import Dialer
from nacre.agent.identity import IdentityFiles, SigningKey
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.auth.sealing import Sealer
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError, NacreError, UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId
from support.certificates import issue_as_before

pytestmark = pytest.mark.anyio

NODE = NodeId("node-01hzzzzzzzzzzzzzzzzzzzzzzz")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime.now(UTC))


@pytest.fixture
async def authority(sqlite_database: Database) -> CertificateAuthority:
    return await CertificateAuthority.open(sqlite_database, Sealer(bytes(32)), "test.nacre")


@pytest.fixture
def files(tmp_path: Path) -> IdentityFiles:
    return IdentityFiles(tmp_path / "agent" / "identity")


async def certificate(
    authority: CertificateAuthority, db: Database, key: SigningKey, node: NodeId = NODE, life_s: float = 90.0
) -> str:
    async with db.write() as tx:
        return (await authority.issue_node(tx, key.request_pem(), node, life_s)).certificate_pem


async def test_an_identity_survives_in_files_that_only_its_owner_may_read(
    files: IdentityFiles, authority: CertificateAuthority, sqlite_database: Database, tmp_path: Path
) -> None:
    assert files.load() is None
    key = files.enrolling_key()
    pem = await certificate(authority, sqlite_database, key)
    saved = files.save_enrolled(key, pem, authority.roots_pem, ("a:1", "[::1]:2"))
    assert files.load() == saved
    assert (saved.node, saved.gateways) == (NODE, ("a:1", "[::1]:2"))
    folder = tmp_path / "agent" / "identity"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
        "node.pem": 0o600,
        "roots.pem": 0o600,
        "gateways": 0o600,
    }
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(saved.pair)
    Dialer(saved)


async def test_the_enrolling_key_stays_the_same_until_it_is_certified(
    files: IdentityFiles, authority: CertificateAuthority, sqlite_database: Database, tmp_path: Path
) -> None:
    first = files.enrolling_key()
    assert IdentityFiles(tmp_path / "agent" / "identity").enrolling_key().pem == first.pem
    pem = await certificate(authority, sqlite_database, first)
    files.save_enrolled(first, pem, authority.roots_pem, ("a:1",))
    assert files.enrolling_key().pem != first.pem


async def test_a_damaged_enrolling_key_is_made_anew(files: IdentityFiles, tmp_path: Path) -> None:
    first = files.enrolling_key()
    (tmp_path / "agent" / "identity" / "enrolling.key").write_text("half a k")
    assert files.enrolling_key().pem != first.pem


async def test_rotation_is_due_at_two_thirds_of_the_certificates_life(
    files: IdentityFiles, authority: CertificateAuthority, sqlite_database: Database, clock: ManualClock
) -> None:
    key = files.enrolling_key()
    pem = await certificate(authority, sqlite_database, key, life_s=90 * 86400.0)
    identity = files.save_enrolled(key, pem, authority.roots_pem, ("a:1",))
    assert not identity.rotation_due(clock.now() + timedelta(days=59))
    assert identity.rotation_due(clock.now() + timedelta(days=61))


async def test_a_certificate_that_is_not_for_being_called_is_known_as_that(
    files: IdentityFiles,
    authority: CertificateAuthority,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = files.enrolling_key()
    pem = await certificate(authority, sqlite_database, key)
    assert files.save_enrolled(key, pem, authority.roots_pem, ("a:1",)).serves
    issue_as_before(monkeypatch)
    pem = await certificate(authority, sqlite_database, key)
    assert not files.save_enrolled(key, pem, authority.roots_pem, ("a:1",)).serves


async def test_a_rotated_certificate_must_be_for_this_node_and_key(
    files: IdentityFiles, authority: CertificateAuthority, sqlite_database: Database
) -> None:
    key = files.enrolling_key()
    before = files.save_enrolled(key, await certificate(authority, sqlite_database, key), authority.roots_pem, ("a:1",))
    fresh = SigningKey.generate()
    bad = [
        await certificate(authority, sqlite_database, SigningKey.generate()),
        await certificate(authority, sqlite_database, fresh, NodeId("node-other")),
        authority.roots_pem,
        "nonsense",
    ]
    for pem in bad:
        with pytest.raises(InvalidInputError) as refused:
            files.save_rotated(fresh, pem, authority.roots_pem, before)
        assert refused.value.code == "unusable_certificate"
        assert files.load() == before
    good = await certificate(authority, sqlite_database, fresh, life_s=900.0)
    after = files.save_rotated(fresh, good, authority.roots_pem, before)
    assert files.load() == after
    assert after.expires_at > before.expires_at


async def test_a_crash_before_the_new_pair_is_in_place_leaves_the_old_one(
    files: IdentityFiles,
    authority: CertificateAuthority,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = files.enrolling_key()
    before = files.save_enrolled(key, await certificate(authority, sqlite_database, key), authority.roots_pem, ("a:1",))
    fresh = SigningKey.generate()
    pem = await certificate(authority, sqlite_database, fresh)
    replace: Callable[[Path, Path], Path] = Path.replace

    def crash(draft: Path, path: Path) -> Path:
        if path.name == "node.pem":
            raise KeyboardInterrupt
        return replace(draft, path)

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        files.save_rotated(fresh, pem, authority.roots_pem, before)
    monkeypatch.undo()
    assert files.load() == before
    Dialer(before)
    files.save_rotated(fresh, pem, authority.roots_pem, before)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("node.pem", ""),
        ("node.pem", "rubbish"),
        ("roots.pem", None),
        ("gateways", None),
    ],
)
async def test_damaged_files_are_said_to_be_damaged(
    files: IdentityFiles,
    authority: CertificateAuthority,
    sqlite_database: Database,
    tmp_path: Path,
    name: str,
    content: str | None,
) -> None:
    key = files.enrolling_key()
    pem = await certificate(authority, sqlite_database, key)
    files.save_enrolled(key, pem, authority.roots_pem, ("a:1",))
    path = tmp_path / "agent" / "identity" / name
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UnavailableError) as refused:
        files.load()
    assert refused.value.code == "identity_damaged"
    assert str(tmp_path) not in refused.value.message + refused.value.hint


async def test_a_pair_that_does_not_fit_is_not_dialled_with(
    files: IdentityFiles, authority: CertificateAuthority, sqlite_database: Database
) -> None:
    key = files.enrolling_key()
    pem = await certificate(authority, sqlite_database, key)
    identity = files.save_enrolled(key, pem, authority.roots_pem, ("a:1",))
    identity.pair.write_bytes(SigningKey.generate().pem + pem.encode())
    with pytest.raises(NacreError) as refused:
        Dialer(identity)
    assert refused.value.code == "identity_damaged"


def test_what_is_written_is_on_the_disk_before_it_is_believed(
    files: IdentityFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), fsync(fd)))
    files.enrolling_key()
    assert len(synced) == 2  # the file, then its folder

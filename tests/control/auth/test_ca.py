"""The certificate authority: what it makes, what it refuses, and how its key is kept."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nacre.control.auth.ca import CertificateAuthority, OwnRoot, _key_usage, key_fingerprint, read_request
from nacre.control.auth.sealing import SealedError, Sealer, load_sealer
from nacre.control.auth.tls import SERVER_LIFE, ServerTls
from nacre.control.store import ca as store
from nacre.control.store.db import Database
from nacre.errors import ConflictError, InvalidInputError, NacreError, UnauthenticatedError, UnavailableError
from nacre.lib.clock import ManualClock
from nacre.model.ids import NodeId

pytestmark = pytest.mark.anyio

DOMAIN = "test.nacre"
NODE = NodeId("node-01hzzzzzzzzzzzzzzzzzzzzzzz")
DAY = 86400.0


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(bytes(32))


def csr(key: object = None, *, uri: str = "") -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
    )
    if uri:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
        )
    made = key or ec.generate_private_key(ec.SECP256R1())
    algorithm = None if isinstance(made, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(made, algorithm).public_bytes(serialization.Encoding.PEM).decode()  # type: ignore[arg-type]


async def test_a_node_certificate_names_the_node_and_nothing_that_the_request_asked_for(
    database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    authority = await CertificateAuthority.open(database, sealer, DOMAIN)
    async with database.write() as tx:
        issued = await authority.issue_node(tx, csr(uri=f"spiffe://{DOMAIN}/node/node-other"), NODE, 90 * DAY)
    certificate = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [f"spiffe://{DOMAIN}/node/{NODE}"]
    usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
    assert certificate.not_valid_after_utc == issued.expires_at == clock.now() + timedelta(days=90)
    peer = authority.peer(certificate.public_bytes(serialization.Encoding.DER))
    assert (peer.node, peer.serial, peer.expires_at) == (NODE, issued.serial, issued.expires_at)
    async with database.read() as rd:
        assert await store.expiries(rd, [NODE, NodeId("node-x")]) == {NODE: issued.expires_at}
        assert (await store.certificates(rd, [issued.serial]))[issued.serial].revoked_at is None


async def test_certificates_of_a_node_are_revoked_together(database: Database, sealer: Sealer) -> None:
    authority = await CertificateAuthority.open(database, sealer, DOMAIN)
    async with database.write() as tx:
        one = await authority.issue_node(tx, csr(), NODE, DAY)
        two = await authority.issue_node(tx, csr(), NODE, DAY)
        other = await authority.issue_node(tx, csr(), NodeId("node-other"), DAY)
        await store.revoke(tx, NODE)
    async with database.read() as rd:
        rows = await store.certificates(rd, [one.serial, two.serial, other.serial])
    assert {serial for serial, row in rows.items() if row.revoked_at is None} == {other.serial}


async def test_replicas_that_start_at_once_end_with_one_root(database: Database, sealer: Sealer) -> None:
    opened = await asyncio.gather(*(CertificateAuthority.open(database, sealer, DOMAIN) for _ in range(4)))
    assert len({authority.fingerprint for authority in opened}) == 1
    again = await CertificateAuthority.open(database, sealer, DOMAIN)
    assert again.fingerprint == opened[0].fingerprint


async def test_the_root_key_is_sealed_in_the_database(sqlite_database: Database, sealer: Sealer) -> None:
    await CertificateAuthority.open(sqlite_database, sealer, DOMAIN)
    async with sqlite_database.read() as rd:
        row = await store.get_root(rd)
    assert row is not None
    with pytest.raises(ValueError, match="deserialize"):
        serialization.load_der_private_key(row.sealed_key, None)
    with pytest.raises(SealedError) as refused:
        await CertificateAuthority.open(sqlite_database, Sealer(b"\1" * 32), DOMAIN)
    assert refused.value.code == "wrong_master_key"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not a request",
        "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n",
        "x" * 20000,
        "\ud800",
        csr(rsa.generate_private_key(65537, 1024)),
        csr(ec.generate_private_key(ec.SECP192R1())),
        csr(ed25519.Ed25519PrivateKey.generate()),
    ],
    ids=["empty", "prose", "damaged", "long", "surrogate", "short rsa", "weak curve", "other kind"],
)
async def test_a_bad_signing_request_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        read_request(text)
    assert refused.value.code == "invalid_csr"
    assert "PEM" in refused.value.hint


async def test_a_request_whose_signature_is_wrong_is_refused() -> None:
    good = x509.load_pem_x509_csr(csr().encode()).public_bytes(serialization.Encoding.DER)
    bad = good.replace(b"somebody else", b"somebody elsf")
    text = x509.load_der_x509_csr(bad).public_bytes(serialization.Encoding.PEM).decode()
    with pytest.raises(InvalidInputError, match="signature"):
        read_request(text)


async def test_the_fingerprint_of_a_request_is_that_of_its_key() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    assert key_fingerprint(read_request(csr(key))) == key_fingerprint(read_request(csr(key)))
    assert key_fingerprint(read_request(csr(key))) != key_fingerprint(read_request(csr()))


async def test_a_certificate_that_names_no_node_speaks_for_nobody(
    sqlite_database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    authority = await CertificateAuthority.open(sqlite_database, sealer, DOMAIN)
    server = authority.issue_server(("localhost",), clock.now(), SERVER_LIFE)
    der = x509.load_pem_x509_certificate(server.chain_pem).public_bytes(serialization.Encoding.DER)
    for shown, code in ((der, "not_a_node_certificate"), (None, "certificate_required")):
        with pytest.raises(UnauthenticatedError) as refused:
            authority.peer(shown)
        assert refused.value.code == code
    abroad = CertificateAuthority(authority._certificate, authority._key, "elsewhere")
    async with sqlite_database.write() as tx:
        issued = await abroad.issue_node(tx, csr(), NODE, DAY)
    foreign = x509.load_pem_x509_certificate(issued.certificate_pem.encode())
    with pytest.raises(UnauthenticatedError):
        authority.peer(foreign.public_bytes(serialization.Encoding.DER))


def own_root(clock: ManualClock, *, ca: bool = True, signs: bool = True) -> OwnRoot:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ours")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, clock.now(), clock.now() + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_key_usage(signs_certificates=signs), critical=True)
        .sign(key, hashes.SHA256())
    )
    return OwnRoot(
        certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode(),
    )


async def test_an_operators_own_root_is_used_and_bounds_what_it_signs(
    sqlite_database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    own = own_root(clock)
    authority = await CertificateAuthority.open(sqlite_database, sealer, DOMAIN, own)
    assert authority.roots_pem == own.certificate_pem
    async with sqlite_database.write() as tx:
        issued = await authority.issue_node(tx, csr(), NODE, 90 * DAY)
    assert issued.expires_at == clock.now() + timedelta(days=30)
    again = await CertificateAuthority.open(
        sqlite_database, sealer, DOMAIN, OwnRoot(certificate_pem=own.certificate_pem, key_pem="")
    )
    assert again.fingerprint == authority.fingerprint
    with pytest.raises(ConflictError) as refused:
        await CertificateAuthority.open(sqlite_database, sealer, DOMAIN, own_root(clock))
    assert refused.value.code == "another_root_in_use"


async def test_nothing_is_issued_before_the_root_is_valid(
    sqlite_database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    authority = await CertificateAuthority.open(sqlite_database, sealer, DOMAIN)
    clock.jump(-30 * DAY)
    async with sqlite_database.write() as tx:
        with pytest.raises(UnavailableError) as refused:
            await authority.issue_node(tx, csr(), NODE, DAY)
    assert "clock" in refused.value.hint


async def test_an_own_root_that_is_none_is_refused(
    sqlite_database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    good, other = own_root(clock), own_root(clock)
    bad = [
        own_root(clock, ca=False),
        own_root(clock, signs=False),
        OwnRoot(certificate_pem=good.certificate_pem, key_pem=""),
        OwnRoot(certificate_pem=good.certificate_pem, key_pem=other.key_pem),
        OwnRoot(certificate_pem="?", key_pem=good.key_pem),
    ]
    for own in bad:
        with pytest.raises(InvalidInputError) as refused:
            await CertificateAuthority.open(sqlite_database, sealer, DOMAIN, own)
        assert refused.value.code == "invalid_root"
    async with sqlite_database.read() as rd:
        assert await store.get_root(rd) is None


async def test_the_gateways_certificate_is_renewed_at_two_thirds_of_its_life(
    sqlite_database: Database, sealer: Sealer, clock: ManualClock
) -> None:
    authority = await CertificateAuthority.open(sqlite_database, sealer, DOMAIN)
    tls = ServerTls(authority, ("localhost", "127.0.0.1", "::1"), clock.now())
    first = tls.expires_at
    clock.advance(19 * DAY)
    assert not tls.renew(clock.now())
    clock.advance(2 * DAY)
    assert tls.renew(clock.now())
    assert tls.expires_at > first


async def test_the_master_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    sealed = load_sealer(path).seal(b"secret", "purpose")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    assert load_sealer(path).open(sealed, "purpose") == b"secret"
    with pytest.raises(SealedError):
        load_sealer(path).open(sealed, "another purpose")


@pytest.mark.parametrize(
    ("content", "mode", "code"),
    [
        ("00" * 32, 0o644, "master_key_exposed"),
        ("00" * 31, 0o600, "master_key_damaged"),
        ("zz" * 32, 0o600, "master_key_damaged"),
    ],
)
async def test_a_bad_master_key_is_refused(tmp_path: Path, content: str, mode: int, code: str) -> None:
    path = tmp_path / "master.key"
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(NacreError) as refused:
        load_sealer(path)
    assert refused.value.code == code
    assert content not in refused.value.message

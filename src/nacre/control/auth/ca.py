"""The built-in certificate authority: one root per platform, certificates for nodes and for replicas' gateways.

Opened by `main`, used by the gateway and by enrolment. The root's key is sealed in the database and otherwise only
in memory. A node's key never comes here: nodes send signing requests, of which only the public key is believed.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nacre.control.auth.sealing import Sealer
from nacre.control.store import ca as store
from nacre.control.store.db import Database, Tx
from nacre.errors import ConflictError, InvalidInputError, UnauthenticatedError, UnavailableError
from nacre.model.ids import NodeId
from nacre.protocol.identity import node_of_uri, node_uri

ROOT_LIFE = timedelta(days=3652)
_BACKDATE = timedelta(minutes=5)
"""Certificates begin to be valid a little in the past, for hosts whose clocks are behind."""
_MAX_CSR_CHARACTERS = 16384
_MIN_RSA_BITS = 2048
_CURVES = ("secp256r1", "secp384r1")

RootKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What a verified client certificate says."""

    node: NodeId
    serial: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True)
class Issued:
    """A certificate for a node, and what it must trust."""

    node: NodeId
    serial: str
    certificate_pem: str
    roots_pem: str
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, repr=False)
class ServerCertificate:
    """A certificate for a gateway, with its key. The key exists in memory only."""

    chain_pem: bytes
    key_pem: bytes
    issued_at: datetime
    expires_at: datetime


@dataclass(frozen=True, kw_only=True, repr=False)
class OwnRoot:
    """A root, or an intermediate, that an operator brings along (PEM). The key is not encrypted."""

    certificate_pem: str
    key_pem: str
    """Empty once the platform has it."""


class CertificateAuthority:
    """Issues and judges certificates of one platform."""

    def __init__(self, certificate: x509.Certificate, key: RootKey, domain: str) -> None:
        self._certificate = certificate
        self._key = key
        self.domain = domain

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the root certificate, in hex. Agents that enrol know the control plane by it."""
        return self._certificate.fingerprint(hashes.SHA256()).hex()

    @property
    def roots_pem(self) -> str:
        """What peers must trust."""
        return self._certificate.public_bytes(serialization.Encoding.PEM).decode()

    @classmethod
    async def open(
        cls, db: Database, sealer: Sealer, domain: str, own: OwnRoot | None = None
    ) -> "CertificateAuthority":
        """Return the platform's authority, making the root at the first start. Replicas may all do so at once.

        `own` is taken instead of making one, and must be the one in use ever after. Raises NacreError.
        """
        async with db.read() as rd:
            row = await store.get_root(rd)
        if row is None:
            certificate, key = _imported(own, db.clock.now()) if own else _made(domain, db.clock.now())
            async with db.write() as tx:
                await store.add_root(tx, _row(certificate, key, sealer, tx.now()))
                row = await store.get_root(tx)
        if row is None:
            raise RuntimeError("the root certificate vanished while it was made")
        key_der = sealer.open(row.sealed_key, _purpose(row.certificate_pem))
        stored = x509.load_pem_x509_certificate(row.certificate_pem.encode())
        if own is not None and _certificate(own) != stored:
            raise ConflictError(
                "another_root_in_use",
                "the platform already has another root certificate",
                hint="remove ca_certificate_file; the root of a platform with nodes cannot be exchanged",
            )
        return cls(stored, _root_key(serialization.load_der_private_key(key_der, None)), domain)

    async def issue_node(self, tx: Tx, csr_pem: str, node: NodeId, life_s: float) -> Issued:
        """Return a certificate that lets the holder of the request's key speak for `node`. Raises NacreError."""
        request = read_request(csr_pem)
        begins, ends = self._validity(tx.now(), timedelta(seconds=life_s))
        serial = x509.random_serial_number()
        certificate = self._sign(
            _builder(NodeId(node), request.public_key(), serial, begins, ends),
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(node_uri(self.domain, node))]),
            ExtendedKeyUsageOID.CLIENT_AUTH,
            ExtendedKeyUsageOID.SERVER_AUTH,  # to other nodes, which look at the node's name and nothing else
        )
        issued = Issued(
            node=node,
            serial=f"{serial:x}",
            certificate_pem=certificate.public_bytes(serialization.Encoding.PEM).decode(),
            roots_pem=self.roots_pem,
            expires_at=ends,
        )
        await store.add_certificate(
            tx, store.NodeCertificateRow(serial=issued.serial, node=node, issued_at=tx.now(), expires_at=ends)
        )
        return issued

    def issue_server(self, hosts: tuple[str, ...], now: datetime, life: timedelta) -> ServerCertificate:
        """Return a certificate for a gateway that is reached under `hosts`. Raises UnavailableError."""
        key = ec.generate_private_key(ec.SECP256R1())
        begins, ends = self._validity(now, life)
        certificate = self._sign(
            _builder("nacre gateway", key.public_key(), x509.random_serial_number(), begins, ends),
            x509.SubjectAlternativeName([_general_name(host) for host in hosts]),
            ExtendedKeyUsageOID.SERVER_AUTH,
        )
        return ServerCertificate(
            chain_pem=certificate.public_bytes(serialization.Encoding.PEM) + self.roots_pem.encode(),
            key_pem=key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            issued_at=now,
            expires_at=ends,
        )

    def peer(self, certificate_der: bytes | None) -> Peer:
        """Return whom a client certificate, whose chain TLS has verified, speaks for. Raises UnauthenticatedError."""
        if certificate_der is None:
            raise UnauthenticatedError(
                "certificate_required",
                "no client certificate was shown",
                hint="enrol the node first; agents connect with the certificate that they got",
            )
        certificate = x509.load_der_x509_certificate(certificate_der)
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        except x509.ExtensionNotFound:
            uris = []
        return Peer(
            node=node_of_uri(self.domain, uris),
            serial=f"{certificate.serial_number:x}",
            expires_at=certificate.not_valid_after_utc,
        )

    def _validity(self, now: datetime, life: timedelta) -> tuple[datetime, datetime]:
        # X.509 knows whole seconds only; the end is rounded down so that nothing outlives what we have noted.
        begins = (now - min(_BACKDATE, life / 10)).replace(microsecond=0)
        ends = min(now + life, self._certificate.not_valid_after_utc).replace(microsecond=0)
        begins = max(begins, self._certificate.not_valid_before_utc)
        if begins >= ends:
            raise UnavailableError(
                "authority_not_valid",
                "the root certificate is not valid at this time, so nothing can be issued",
                hint="check the clock of the control plane",
            )
        return begins, ends

    def _sign(
        self, builder: x509.CertificateBuilder, names: x509.SubjectAlternativeName, *uses: x509.ObjectIdentifier
    ) -> x509.Certificate:
        identifier = self._certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return (
            builder.issuer_name(self._certificate.subject)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(self._key, hashes.SHA256())
        )


def read_request(csr_pem: str) -> x509.CertificateSigningRequest:
    """Return a signing request whose sender has proved to hold a strong enough key. Raises InvalidInputError."""
    if len(csr_pem) > _MAX_CSR_CHARACTERS:
        raise _bad_request("it is too long")
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        key = request.public_key()
        proved = request.is_signature_valid
    except (ValueError, TypeError, UnicodeError, InvalidSignature) as error:
        raise _bad_request("it cannot be read") from error
    if not proved:
        raise _bad_request("its signature is wrong")
    strong = (isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES) or (
        isinstance(key, rsa.RSAPublicKey) and _MIN_RSA_BITS <= key.key_size <= 4 * _MIN_RSA_BITS
    )
    if not strong:
        raise _bad_request("its key is of a kind or size that is not accepted")
    return request


def key_fingerprint(request: x509.CertificateSigningRequest) -> str:
    """Return a name for the key of a signing request: the SHA-256 of its public half, in hex."""
    digest = hashes.Hash(hashes.SHA256())
    digest.update(
        request.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return digest.finalize().hex()


def _made(domain: str, now: datetime) -> tuple[x509.Certificate, RootKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"Nacre root of {domain}"[:64])])
    certificate = (
        _builder("", key.public_key(), x509.random_serial_number(), now - _BACKDATE, now + ROOT_LIFE)
        .subject_name(name)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _imported(own: OwnRoot, now: datetime) -> tuple[x509.Certificate, RootKey]:
    if not own.key_pem:
        raise _bad_root("its key is needed at the first start: set ca_key_file")
    certificate = _certificate(own)
    try:
        key = _root_key(serialization.load_pem_private_key(own.key_pem.encode(), None))
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (ValueError, TypeError) as error:
        raise _bad_root("its key cannot be read") from error
    except x509.ExtensionNotFound as error:
        raise _bad_root("the certificate lacks basic constraints, key usage or a subject key identifier") from error
    # Peers verify strictly, and would refuse whatever such an authority had signed.
    if not constraints.value.ca or not constraints.critical or not usage.key_cert_sign:
        raise _bad_root("the certificate is not one of an authority that may sign certificates")
    if certificate.public_key() != key.public_key():
        raise _bad_root("the key is not that of the certificate")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise _bad_root("the certificate is not valid now")
    return certificate, key


def _certificate(own: OwnRoot) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(own.certificate_pem.encode())
    except ValueError as error:
        raise _bad_root("the certificate cannot be read") from error


def _row(certificate: x509.Certificate, key: RootKey, sealer: Sealer, now: datetime) -> store.AuthorityRow:
    certificate_pem = certificate.public_bytes(serialization.Encoding.PEM).decode()
    key_der = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    sealed = sealer.seal(key_der, _purpose(certificate_pem))
    return store.AuthorityRow(name=store.ROOT, certificate_pem=certificate_pem, sealed_key=sealed, created_at=now)


def _purpose(certificate_pem: str) -> str:
    return f"key of the certificate authority\n{certificate_pem}"


def _root_key(key: object) -> RootKey:
    if isinstance(key, RootKey):
        return key
    raise _bad_root("the key is neither elliptic-curve nor RSA")


def _builder(
    name: str, key: CertificatePublicKeyTypes, serial: int, begins: datetime, ends: datetime
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .public_key(key)
        .serial_number(serial)
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )
    return builder.subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])) if name else builder


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _bad_request(why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_csr",
        f"the certificate signing request is not accepted: {why}",
        hint="send a PEM request signed by a P-256 or P-384 key, or an RSA key of 2048 to 8192 bits",
    )


def _bad_root(why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_root",
        f"the certificate authority that was brought along is not accepted: {why}",
        hint="give a PEM certificate with critical CA:TRUE and key usage keyCertSign, and its unencrypted PEM key",
    )

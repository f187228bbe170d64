"""Who this node is: its key, its certificate, the roots it trusts, and where its control plane is. Kept in files.

Written by enrolment and rotation, read when the agent starts. Only the owner may read them. A key and its certificate
are one file, so that no crash can leave a pair that does not fit.
"""

import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nacre.errors import InvalidInputError, UnavailableError
from nacre.model.ids import NodeId


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A node's identity, as it is on disk."""

    node: NodeId
    roots_pem: str
    begins_at: datetime
    expires_at: datetime
    gateways: tuple[str, ...]
    """Addresses (`host:port`) of the control plane, in order of preference."""
    pair: Path
    """The key and the certificate, as `ssl` loads them."""
    serves: bool = True
    """Whether other nodes may call this one: certificates of control planes before live moves are not for that."""

    def rotation_due(self, now: datetime) -> bool:
        """Whether two thirds of the certificate's life are over."""
        return now >= self.begins_at + (self.expires_at - self.begins_at) * 2 / 3


class SigningKey:
    """A new key pair of this node. The private half is written to this node's disk and nowhere else."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> "SigningKey | None":
        """Read a key that was stored; None if it is damaged."""
        try:
            key = serialization.load_pem_private_key(pem, None)
        except ValueError:
            return None
        return cls(key) if isinstance(key, ec.EllipticCurvePrivateKey) else None

    @property
    def pem(self) -> bytes:
        """The key, unencrypted."""
        return self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def request_pem(self) -> str:
        """Return a certificate signing request. It names nobody: the control plane decides who this is."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "nacre agent")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self._key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def fits(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate is for this key."""
        return certificate.public_key() == self._key.public_key()


class IdentityFiles:
    """The folder of an identity."""

    def __init__(self, folder: Path, *, durable: bool = True) -> None:
        """What is not `durable` may be lost when the host crashes: for nodes that are only simulated."""
        self._folder = folder
        self._durable = durable
        self._pair = folder / "node.pem"
        self._roots = folder / "roots.pem"
        self._gateways = folder / "gateways"
        self._enrolling = folder / "enrolling.key"

    def load(self) -> Identity | None:
        """Return the identity, None if the node is not enrolled. Raises UnavailableError if the files are damaged."""
        try:
            certificate = x509.load_pem_x509_certificate(_certificate_part(self._pair.read_bytes()))
            node = node_of(certificate)
            roots = self._roots.read_text()
            gateways = tuple(self._gateways.read_text().split())
        except FileNotFoundError:
            if self._pair.exists():
                raise _damaged() from None
            return None
        except (OSError, ValueError) as error:
            raise _damaged() from error
        return Identity(
            node=node,
            roots_pem=roots,
            begins_at=certificate.not_valid_before_utc,
            expires_at=certificate.not_valid_after_utc,
            gateways=gateways,
            pair=self._pair,
            serves=_serves(certificate),
        )

    def enrolling_key(self) -> SigningKey:
        """Return the key to enrol with: the same until it has a certificate, so that enrolling may be repeated."""
        if self._enrolling.exists():
            kept = SigningKey.from_pem(self._enrolling.read_bytes())
            if kept is not None:
                return kept
        key = SigningKey.generate()
        self._write(self._enrolling, key.pem)
        return key

    def save_enrolled(
        self, key: SigningKey, certificate_pem: str, roots_pem: str, gateways: tuple[str, ...]
    ) -> Identity:
        """Store a new identity. The pair is written last: until then the node is not enrolled and does it again."""
        _check(key, certificate_pem)
        self._write(self._roots, roots_pem.encode())
        self._write(self._gateways, "".join(f"{gateway}\n" for gateway in gateways).encode())
        self._write(self._pair, key.pem + certificate_pem.encode())
        self._enrolling.unlink(missing_ok=True)
        return self._loaded()

    def save_rotated(self, key: SigningKey, certificate_pem: str, roots_pem: str, before: Identity) -> Identity:
        """Replace the certificate and its key. Raises InvalidInputError if it is not for this node and key."""
        certificate = _check(key, certificate_pem)
        if node_of(certificate) != before.node:
            raise _unusable("it names another node")
        self._write(self._roots, roots_pem.encode())
        self._write(self._pair, key.pem + certificate_pem.encode())
        return replace(self._loaded(), gateways=before.gateways)

    def _loaded(self) -> Identity:
        identity = self.load()
        if identity is None:
            raise _damaged()
        return identity

    def _write(self, path: Path, content: bytes) -> None:
        """Replace a file as a whole: after a crash it is the old one or the new one."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            if self._durable:
                os.fsync(file.fileno())
        draft.replace(path)
        if not self._durable:
            return
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _check(key: SigningKey, certificate_pem: str) -> x509.Certificate:
    try:
        certificate = x509.load_pem_x509_certificate(certificate_pem.encode())
        node_of(certificate)
    except ValueError as error:
        raise _unusable("it cannot be read") from error
    if not key.fits(certificate):
        raise _unusable("it is for another key")
    return certificate


def _serves(certificate: x509.Certificate) -> bool:
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.SERVER_AUTH in uses


def node_of(certificate: x509.Certificate) -> NodeId:
    """Return the last part of the SPIFFE id. Raises ValueError."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound as error:
        raise ValueError("no subject alternative name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1 or not uris[0].rpartition("/node/")[2]:
        raise ValueError("not the certificate of a node")
    return NodeId(uris[0].rpartition("/node/")[2])


def _certificate_part(pair: bytes) -> bytes:
    return pair[pair.index(b"-----BEGIN CERTIFICATE-----") :]


def _unusable(why: str) -> InvalidInputError:
    return InvalidInputError(
        "unusable_certificate",
        f"the certificate that the control plane sent is not usable: {why}",
        hint="both sides must be of like versions",
    )


def _damaged() -> UnavailableError:
    return UnavailableError(
        "identity_damaged",
        "the node's identity on disk is damaged",
        hint="restore the identity folder of the agent's data directory, or remove it and enrol the node again",
    )

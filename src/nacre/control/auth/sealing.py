"""Secrets at rest: sealed under a master key that is kept in a file and never in the database.

Used by `auth/ca.py` and the services of machines. AES-256-GCM with a random nonce; what a sealed value is for is bound
to it.
"""

import hmac
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from nacre.errors import NacreError, UnavailableError

_KEY_BYTES = 32
_NONCE_BYTES = 12


class SealedError(NacreError):
    """A secret cannot be opened with this master key."""


class Sealer:
    """Seals and opens small secrets."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._naming = HKDF(hashes.SHA256(), _KEY_BYTES, salt=None, info=b"fingerprints").derive(key)

    def seal(self, secret: bytes, purpose: str) -> bytes:
        """Return `secret` so that only the same key and the same `purpose` open it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, secret, purpose.encode())

    def fingerprint(self, secret: bytes, purpose: str) -> str:
        """Return a name for exactly this secret, which tells nothing of it to who has not the key."""
        return hmac.digest(self._naming, purpose.encode() + b"\0" + secret, "sha256").hex()[:32]

    def open(self, sealed: bytes, purpose: str) -> bytes:
        """Return what was sealed. Raises SealedError."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise SealedError(
                "wrong_master_key",
                "the master key does not open the secrets in the database",
                hint="use the master.key that was made together with this database; every replica needs the same one",
            ) from error


def needed(sealer: Sealer | None) -> Sealer:
    """Return it. Raises UnavailableError if there is none."""
    if sealer is None:
        raise UnavailableError(
            "master_key_missing", "there is no master key to seal secrets with", hint="restore master.key"
        )
    return sealer


def load_sealer(path: Path) -> Sealer:
    """Return the sealer of the master key at `path`, made at the first start. Raises NacreError.

    Written in full under another name and then linked, so that of two starting at once one makes it and both read it.
    """
    if not path.exists():
        draft = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(_KEY_BYTES).hex().encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            _link(draft, path)
        finally:
            draft.unlink()
    return Sealer(_read(path))


def _link(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise UnavailableError(
            "master_key_exposed",
            "the master key can be read by others than its owner",
            hint=f"chmod 600 {path.name} in the data directory, and consider it known",
        )
    try:
        key = bytes.fromhex(path.read_text().strip())
    except ValueError as error:
        raise _damaged() from error
    if len(key) != _KEY_BYTES:
        raise _damaged()
    return key


def _damaged() -> UnavailableError:
    return UnavailableError(
        "master_key_damaged",
        "the master key is not 64 hexadecimal digits",
        hint="restore master.key from where it is backed up",
    )

"""The certificate authority that an operator brings along, read from its files. Called by `app` when it starts.

What it must be is judged by `ca`, when it is taken.
"""

from pathlib import Path

from nacre.control.auth.ca import OwnRoot
from nacre.errors import InvalidInputError


def read_own_root(certificate_file: str, key_file: str) -> OwnRoot | None:
    """Return the authority in these files; None if none is named. Without a key it can only be compared.

    Raises InvalidInputError for files that cannot be read, and for a key that others can read.
    """
    if not certificate_file:
        return None
    certificate = _read(Path(certificate_file), "ca_certificate_file")
    if not key_file:
        return OwnRoot(certificate_pem=certificate, key_pem="")
    key = Path(key_file)
    content = _read(key, "ca_key_file")
    if key.stat().st_mode & 0o077:
        raise InvalidInputError(
            "ca_key_exposed",
            "the key of the certificate authority can be read by others than its owner",
            hint=f"chmod 600 {key}, and think about who may have read it",
            field="ca_key_file",
        )
    return OwnRoot(certificate_pem=certificate, key_pem=content)


def _read(path: Path, field: str) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not PEM"
        raise InvalidInputError(
            "unreadable_root",
            f"{path}: {why}",
            hint=f"give a PEM file that the control plane may read as {field}",
            field=field,
        ) from error

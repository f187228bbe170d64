"""The gateway's side of TLS: a context whose certificate is replaced while it is in use.

Used by `gateway/server.py`. TLS 1.3 only. A client certificate is optional here, because agents that enrol have none
yet; the gateway itself demands one wherever it matters.
"""

import ssl
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from nacre.control.auth.ca import CertificateAuthority, ServerCertificate

SERVER_LIFE = timedelta(days=30)

log = structlog.get_logger()


class ServerTls:
    """One SSLContext for the life of a listener."""

    def __init__(self, ca: CertificateAuthority, hosts: tuple[str, ...], now: datetime) -> None:
        self._ca = ca
        self._hosts = hosts
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self.context.verify_mode = ssl.CERT_OPTIONAL
        self.context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
        # A resumed session would speak for a certificate that nobody looked at again.
        self.context.num_tickets = 0
        self.context.load_verify_locations(cadata=ca.roots_pem)
        self._current = self._load(now)

    @property
    def expires_at(self) -> datetime:
        """When the certificate in use ends."""
        return self._current.expires_at

    def renew(self, now: datetime) -> bool:
        """Replace the certificate if two thirds of its life are over. Open connections are not touched."""
        current = self._current
        if now < current.issued_at + (current.expires_at - current.issued_at) * 2 / 3:
            return False
        self._current = self._load(now)
        log.info("gateway.certificate_renewed", expires_at=self._current.expires_at.isoformat())
        return True

    def _load(self, now: datetime) -> ServerCertificate:
        made = self._ca.issue_server(self._hosts, now, SERVER_LIFE)
        # OpenSSL's chain loader reads files only; these are gone before anyone connects.
        with tempfile.TemporaryDirectory(prefix="nacre-tls-") as folder:
            path = Path(folder) / "gateway.pem"
            path.touch(mode=0o600)
            path.write_bytes(made.key_pem + made.chain_pem)
            self.context.load_cert_chain(path)
        return made

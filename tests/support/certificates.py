"""Certificates as control planes issued them before machines moved while they run: not for nodes that are called."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from nacre.control.auth.ca import CertificateAuthority


def issue_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every authority sign for clients alone from now on."""
    sign = CertificateAuthority._sign

    def for_clients(self: CertificateAuthority, builder: Any, names: Any, *uses: x509.ObjectIdentifier) -> Any:
        return sign(self, builder, names, *(use for use in uses if use != ExtendedKeyUsageOID.SERVER_AUTH))

    monkeypatch.setattr(CertificateAuthority, "_sign", for_clients)

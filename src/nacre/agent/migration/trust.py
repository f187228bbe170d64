"""Who is at the other end of a connection between two agents: nodes of the same platform, by their certificates.

Used by `dial` and `listener`. The names of hosts say nothing here: only the node's id in the certificate does.
"""

import asyncio
import ssl

from cryptography import x509

from nacre.agent.identity import Identity, node_of
from nacre.errors import UnauthenticatedError
from nacre.model.ids import NodeId


def calling(identity: Identity) -> ssl.SSLContext:
    """Return a context for the side that dials."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    load(context, identity)
    return context


def called(identity: Identity) -> ssl.SSLContext:
    """Return a context for the side that listens."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    load(context, identity)
    return context


def load(context: ssl.SSLContext, identity: Identity) -> None:
    """Have a context use an identity from now on."""
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=identity.roots_pem)
    context.load_cert_chain(identity.pair)


def peer(writer: asyncio.StreamWriter) -> NodeId:
    """Return the node at the other end, whose certificate TLS has verified. Raises UnauthenticatedError."""
    tls: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
    shown = tls.getpeercert(binary_form=True) if tls is not None else None
    try:
        if shown is None:
            raise ValueError("no certificate")
        return node_of(x509.load_der_x509_certificate(shown))
    except ValueError as error:
        raise UnauthenticatedError(
            "not_a_node", "who called is not a node of this platform", hint="both nodes must be of one control plane"
        ) from error

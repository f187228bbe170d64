"""Becoming a node: a join string in, an identity out. Called by `main` before there can be a link.

The control plane is known by the fingerprint in the join string; the secret is sent only after that has been checked.
May be repeated after any crash: the key is kept, and the same token and key give the same node again.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from websockets.exceptions import ConnectionClosed

from nacre.agent import dialer
from nacre.agent.identity import Identity, IdentityFiles
from nacre.errors import ConflictError, InvalidInputError, NacreError, UnauthenticatedError, UnavailableError
from nacre.lib.backoff import Backoff
from nacre.protocol import paths
from nacre.protocol.join import Join
from nacre.protocol.messages import Enrol, Enrolled

log = structlog.get_logger()


async def ensure_enrolled(files: IdentityFiles, join: Join | None, name: str, random: Callable[[], float]) -> Identity:
    """Return the node's identity, enrolling first if it has none; waits for a control plane that is away.

    A join string for the same platform may be newer than the identity: its addresses are then used.
    Raises NacreError if enrolling can not work.
    """
    identity = files.load()
    if identity is not None:
        return identity if join is None else _joined_again(identity, join)
    if join is None:
        raise InvalidInputError(
            "not_enrolled",
            "this node belongs to no control plane yet",
            hint="give it the join string that `nacre node token create` prints",
            field="join",
        )
    backoff = Backoff(first=0.25, cap=15.0, random=random)
    while True:
        try:
            return await enrol(files, join, name)
        except NacreError as error:
            if not error.retryable:
                raise
            delay = backoff.next()
            if backoff.attempts == 1:
                log.warning("enrolment.failed", code=error.code, message=error.message, hint=error.hint, retry_s=delay)
        await asyncio.sleep(delay)


async def enrol(files: IdentityFiles, join: Join, name: str) -> Identity:
    """Enrol at the first address that answers. Raises NacreError."""
    failure: NacreError | None = None
    for address in join.gateways:
        try:
            return await _enrol_at(address, files, join, name)
        except NacreError as error:
            if not error.retryable:
                raise
            failure = error
    raise failure or UnavailableError("no_address", "the join string has no address", hint="make a new join string")


async def _enrol_at(address: str, files: IdentityFiles, join: Join, name: str) -> Identity:
    context = dialer.trusting(await _pinned_roots(address, join.ca))
    key = await asyncio.to_thread(files.enrolling_key)
    async with dialer.opened(address, paths.ENROL, context) as connection:
        await dialer.send(connection, Enrol(token=join.secret, csr_pem=key.request_pem(), name=name))
        answer = await dialer.expect(connection, Enrolled)
    identity = await asyncio.to_thread(
        files.save_enrolled, key, answer.certificate_pem, answer.roots_pem, join.gateways
    )
    log.info("node.enrolled", node=identity.node, expires_at=identity.expires_at.isoformat())
    return identity


async def _pinned_roots(address: str, fingerprint: str) -> str:
    """Fetch the root certificates over a connection that proves nothing, and believe the one with the fingerprint."""
    async with dialer.opened(address, paths.ROOTS, dialer.unverified()) as connection:
        try:
            async with asyncio.timeout(dialer.RECEIVE_TIMEOUT_S):
                sent = await connection.recv(decode=False)
        except ConnectionClosed as error:
            raise dialer.lost() from error
        except TimeoutError as error:
            raise dialer.silent() from error
    root = next((root for root in _certificates(sent) if _fingerprint(root) == fingerprint), None)
    if root is None:
        raise UnauthenticatedError(
            "control_plane_not_trusted",
            f"{address} is not the control plane that made the join string",
            hint="check the address; if the control plane was set up anew, make a new join string",
        )
    return ssl.DER_cert_to_PEM_cert(root.public_bytes(Encoding.DER))


def _certificates(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []


def _fingerprint(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _joined_again(identity: Identity, join: Join) -> Identity:
    if all(_fingerprint(root) != join.ca for root in _certificates(identity.roots_pem.encode())):
        raise ConflictError(
            "enrolled_elsewhere",
            "this node belongs to another control plane than the join string is for",
            hint="remove the identity folder of the agent's data directory to leave that one, or drop the join string",
        )
    return replace(identity, gateways=join.gateways)

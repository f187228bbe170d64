"""The gateway's ledger over the database: each method is one transaction around the services' rules. Built by `app`."""

from collections.abc import Collection, Mapping
from pathlib import Path

from nacre.control.auth.ca import CertificateAuthority, Peer, key_fingerprint, read_request
from nacre.control.gateway import desired, observed
from nacre.control.services import enrolments, images, node_signs
from nacre.control.services.image_files import ImageDepot
from nacre.control.store import ca as certificates
from nacre.control.store import node_leases
from nacre.control.store.db import Database
from nacre.errors import NacreError, NotFoundError, UnauthenticatedError
from nacre.model.ids import ImageId, NodeId
from nacre.model.images import Role
from nacre.protocol.messages import Enrol, Enrolled, Heartbeat, Hello, NodeIntent, Observed, Rotated


class DatabaseLedger:
    """Implements `Ledger`."""

    def __init__(self, db: Database, ca: CertificateAuthority, depot: ImageDepot, node_certificate_s: float) -> None:
        self._db = db
        self._ca = ca
        self._depot = depot
        self._life_s = node_certificate_s

    async def enrol(self, request: Enrol) -> Enrolled:
        """Redeem a token and issue a certificate."""
        fingerprint = key_fingerprint(read_request(request.csr_pem))
        async with self._db.write() as tx:
            node = (await enrolments.redeem(tx, request.token, request.name, fingerprint)).id
            issued = await self._ca.issue_node(tx, request.csr_pem, node, self._life_s)
            await node_signs.certified(tx, node, issued.expires_at)
        return Enrolled(node=node, certificate_pem=issued.certificate_pem, roots_pem=issued.roots_pem)

    async def refused(self, peers: Mapping[NodeId, Peer]) -> dict[NodeId, NacreError]:
        """Return the removed nodes and those with a revoked certificate.

        A certificate that is merely unknown is good: we signed it, and the database may be a restored older one.
        """
        async with self._db.read() as rd:
            known = await node_signs.known(rd, set(peers))
            rows = await certificates.certificates(rd, [peer.serial for peer in peers.values()])
        refused: dict[NodeId, NacreError] = {}
        for node, peer in peers.items():
            row = rows.get(peer.serial)
            if node not in known:
                refused[node] = _no_entry("node_removed", "this node is not part of the platform any more")
            elif row is not None and row.revoked_at is not None:
                refused[node] = _no_entry("certificate_revoked", "the certificate of this node was revoked")
        return refused

    async def connected(self, hello: Hello) -> None:
        """Note that a node has a link."""
        async with self._db.write() as tx:
            await node_signs.connected(tx, hello.node, hello.facts, hello.instance)

    async def disconnected(self, node: NodeId, instance: str) -> None:
        """Note that a node's link is gone."""
        async with self._db.write() as tx:
            await node_signs.disconnected(tx, node, instance)

    async def heartbeats(self, beats: Mapping[NodeId, Heartbeat]) -> None:
        """Store the newest heartbeats, always in one order, so that no two replicas wait for each other."""
        async with self._db.write() as tx:
            for node in sorted(beats):
                beat = beats[node]
                await node_signs.heartbeat(tx, node, beat.usage, beat.conditions, beat.facts)

    async def renew(self, asked: Collection[tuple[NodeId, int]], lease_s: float) -> frozenset[tuple[NodeId, int]]:
        """Put leases on record."""
        async with self._db.write() as tx:
            return await node_leases.renew(tx, asked, lease_s)

    async def desired(self, node: NodeId) -> NodeIntent:
        """Return the node's desired state."""
        async with self._db.read() as rd:
            return await desired.load(rd, node)

    async def observed(self, node: NodeId, instance: str, facts: Observed) -> None:
        """Store facts."""
        await observed.apply(self._db, node, facts, instance=instance)

    async def rotate(self, node: NodeId, csr_pem: str) -> tuple[Rotated, Peer]:
        """Issue another certificate."""
        async with self._db.write() as tx:
            issued = await self._ca.issue_node(tx, csr_pem, node, self._life_s)
            await node_signs.certified(tx, node, issued.expires_at)
            await certificates.remove_expired(tx)
        peer = Peer(node=node, serial=issued.serial, expires_at=issued.expires_at)
        return Rotated(certificate_pem=issued.certificate_pem, roots_pem=issued.roots_pem), peer

    async def artifact(self, node: NodeId, image: ImageId, role: Role) -> Path:
        """Return a file of an image that a machine of this node boots from."""
        async with self._db.read() as rd:
            wanted = {vm.image.id for vm in (await desired.load(rd, node)).vms}
            path = await images.artifact_path(rd, self._depot, image, role) if image in wanted else None
        if path is None:
            raise NotFoundError(
                "artifact_not_found",
                f"there is no {role} of image {image} for this node",
                hint="look at the image: it may have been deleted",
            )
        return path


def _no_entry(code: str, message: str) -> UnauthenticatedError:
    return UnauthenticatedError(code, message, hint="enrol it again with a new token from `nacre node token create`")

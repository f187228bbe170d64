"""The gateway's ledger over the database: transactions around the services' rules. Built by `app`.

What many nodes ask at the same time is carried out in one transaction, and answered once that has committed.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from nacre.control.auth.ca import CertificateAuthority, Peer, key_fingerprint, read_request
from nacre.control.auth.sealing import Sealer
from nacre.control.gateway import desired
from nacre.control.gateway.observed import Report, apply_all
from nacre.control.services import enrolments, failover, images, node_signs
from nacre.control.services.image_files import ImageDepot
from nacre.control.store import ca as certificates
from nacre.control.store.db import Database, Tx
from nacre.errors import NacreError, NotFoundError, UnauthenticatedError
from nacre.lib.batches import Batches
from nacre.model.ids import ImageId, NodeId
from nacre.model.images import Role
from nacre.protocol.messages import Enrol, Enrolled, Heartbeat, Hello, NodeIntent, Observed, Rotated

_GATHER_S = 0.005
"""How long who comes and goes waits for others."""
_PATIENCE_S = 0.25
"""How long what is asked or told only to be sure waits for more of its kind."""


class DatabaseLedger:
    """Implements `Ledger`."""

    def __init__(
        self,
        db: Database,
        ca: CertificateAuthority,
        depot: ImageDepot,
        node_certificate_s: float,
        sealer: Sealer | None = None,
    ) -> None:
        """`sealer` opens what is for nodes alone."""
        self._db = db
        self._ca = ca
        self._depot = depot
        self._sealer = sealer
        self._life_s = node_certificate_s
        self._enrolments: Batches[Enrol, Enrolled] = Batches(self._enrol, most=16, pause_s=_GATHER_S)
        self._welcome: Batches[frozenset[NodeId], tuple[set[NodeId], set[str]]] = Batches(self._known)
        self._arrivals: Batches[Hello, None] = Batches(self._connected, pause_s=_GATHER_S)
        self._departures: Batches[tuple[NodeId, str], None] = Batches(self._disconnected, pause_s=_GATHER_S)
        self._pulls: Batches[NodeId, NodeIntent] = Batches(self._desired, pause_s=_PATIENCE_S)
        self._reports: Batches[Report, bool] = Batches(self._observed, pause_s=_PATIENCE_S)

    async def enrol(self, request: Enrol) -> Enrolled:
        """Redeem a token and issue a certificate."""
        return await self._enrolments.ask(request, patient=True)

    async def refused(self, peers: Mapping[NodeId, Peer]) -> dict[NodeId, NacreError]:
        """Return the removed nodes and those with a revoked certificate.

        A certificate that is merely unknown is good: we signed it, and the database may be a restored older one.
        """
        refused: dict[NodeId, NacreError] = {}
        if peers:
            known, revoked = await self._welcome.ask(frozenset(peers))
            for node, peer in peers.items():
                if node not in known:
                    refused[node] = _no_entry("node_removed", "this node is not part of the platform any more")
                elif peer.serial in revoked:
                    refused[node] = _no_entry("certificate_revoked", "the certificate of this node was revoked")
        return refused

    async def connected(self, hello: Hello) -> None:
        """Note that a node has a link."""
        await self._arrivals.ask(hello, patient=True)

    async def disconnected(self, node: NodeId, instance: str) -> None:
        """Note that a node's link is gone."""
        await self._departures.ask((node, instance), patient=True)

    async def heartbeats(self, beats: Mapping[NodeId, Heartbeat]) -> None:
        """Store the newest heartbeats."""
        async with self._db.write() as tx:
            await node_signs.heartbeats(tx, beats)

    async def renew(self, asked: Collection[tuple[NodeId, int]], lease_s: float) -> frozenset[tuple[NodeId, int]]:
        """Put leases on record."""
        async with self._db.write() as tx:
            return await failover.renew(tx, asked, lease_s)

    async def desired(self, node: NodeId, *, patient: bool = False) -> NodeIntent:
        """Return the node's desired state."""
        return await self._pulls.ask(node, patient=patient)

    async def observed(self, node: NodeId, instance: str, facts: Observed) -> None:
        """Store facts. A complete report repeats what is known, as a rule, so it can wait for others."""
        report = Report(node=node, instance=instance, facts=facts)
        await self._reports.ask(report, patient=facts.complete and not facts.vms)

    async def rotate(self, node: NodeId, csr_pem: str) -> tuple[Rotated, Peer]:
        """Issue another certificate."""
        async with self._db.write() as tx:
            issued = await self._ca.issue_node(tx, csr_pem, node, self._life_s)
            await node_signs.certified(tx, node, issued.expires_at)
            await certificates.remove_expired(tx)
        peer = Peer(node=node, serial=issued.serial, expires_at=issued.expires_at)
        return Rotated(certificate_pem=issued.certificate_pem, roots_pem=issued.roots_pem), peer

    async def artifact(self, node: NodeId, image: ImageId, role: Role) -> Path:
        """Return a file of an image that a machine of this node boots from, or one that is about to come."""
        async with self._db.read() as rd:
            wanted = (await desired.load(rd, node, self._sealer)).images
            path = await images.artifact_path(rd, self._depot, image, role) if image in wanted else None
        if path is None:
            raise NotFoundError(
                "artifact_not_found",
                f"there is no {role} of image {image} for this node",
                hint="look at the image: it may have been deleted",
            )
        return path

    # Many at once

    async def _enrol(self, requests: Sequence[Enrol]) -> list[Enrolled | Exception]:
        async with self._db.write() as tx:
            return [await self._enrol_one(tx, request) for request in requests]

    async def _enrol_one(self, tx: Tx, request: Enrol) -> Enrolled | Exception:
        try:
            fingerprint = key_fingerprint(read_request(request.csr_pem))
            async with tx.part():
                node = await enrolments.redeem(tx, request.token, request.name, fingerprint)
                issued = await self._ca.issue_node(tx, request.csr_pem, node.id, self._life_s)
                await node_signs.certified(tx, node.id, issued.expires_at)
        except NacreError as error:
            return error
        return Enrolled(node=node.id, certificate_pem=issued.certificate_pem, roots_pem=issued.roots_pem)

    async def _known(self, asked: Sequence[frozenset[NodeId]]) -> list[tuple[set[NodeId], set[str]] | Exception]:
        async with self._db.read() as rd:
            answer = (
                await node_signs.known(rd, frozenset[NodeId]().union(*asked)),
                await certificates.revoked(rd),
            )
        return [answer for _ in asked]

    async def _connected(self, hellos: Sequence[Hello]) -> list[Exception | None]:
        newest = {hello.node: hello for hello in hellos}
        async with self._db.write() as tx:
            wrong = dict(zip(newest, await node_signs.all_connected(tx, list(newest.values())), strict=True))
        return [wrong[hello.node] for hello in hellos]

    async def _disconnected(self, gone: Sequence[tuple[NodeId, str]]) -> list[Exception | None]:
        async with self._db.write() as tx:
            await node_signs.all_disconnected(tx, gone)
        return [None for _ in gone]

    async def _desired(self, nodes: Sequence[NodeId]) -> list[NodeIntent | Exception]:
        async with self._db.read() as rd:
            found = await desired.load_all(rd, frozenset(nodes), self._sealer)
        return [found[node] for node in nodes]

    async def _observed(self, reports: Sequence[Report]) -> list[bool | Exception]:
        async with self._db.write() as tx:
            return [*await apply_all(tx, reports)]


def _no_entry(code: str, message: str) -> UnauthenticatedError:
    return UnauthenticatedError(code, message, hint="enrol it again with a new token from `nacre node token create`")

"""What the gateway needs of the rest of the control plane: who may connect, what each node should do, what it reported.

Implemented over the database by `gateway/database.py`, passed in by `app`. Every method is a transaction of its own.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Protocol

from nacre.control.auth.ca import Peer
from nacre.errors import NacreError
from nacre.model.ids import ImageId, NodeId
from nacre.model.images import Role
from nacre.protocol.messages import Enrol, Enrolled, Heartbeat, Hello, NodeIntent, Observed, Rotated


class Ledger(Protocol):
    """The collaborators of a gateway."""

    async def enrol(self, request: Enrol) -> Enrolled:
        """Redeem a token and issue a certificate. The same token and key give the same node. Raises NacreError."""
        ...

    async def refused(self, peers: Mapping[NodeId, Peer]) -> dict[NodeId, NacreError]:
        """Return those that may not be connected (any more): removed nodes, revoked certificates."""
        ...

    async def connected(self, hello: Hello) -> None:
        """Note that a node has a link. Raises NacreError if it may not."""
        ...

    async def disconnected(self, node: NodeId, instance: str) -> None:
        """Note that a node's link is gone, unless another took its place."""
        ...

    async def heartbeats(self, beats: Mapping[NodeId, Heartbeat]) -> None:
        """Store the newest heartbeat of each of many nodes."""
        ...

    async def renew(self, asked: Collection[tuple[NodeId, int]], lease_s: float) -> frozenset[tuple[NodeId, int]]:
        """Put leases of `lease_s` seconds on record, durably, and return those of the nodes and tenures that have one.

        The others are not granted: the tenure of the node has ended, or there is no such node.
        """
        ...

    async def desired(self, node: NodeId, *, patient: bool = False) -> NodeIntent:
        """Return everything that the node should run, hold and forget; what is `patient` may wait a moment."""
        ...

    async def observed(self, node: NodeId, instance: str, facts: Observed) -> None:
        """Store facts durably. Facts older than what is stored are ignored."""
        ...

    async def rotate(self, node: NodeId, csr_pem: str) -> tuple[Rotated, Peer]:
        """Issue another certificate to a node. Raises NacreError."""
        ...

    async def artifact(self, node: NodeId, image: ImageId, role: Role) -> Path:
        """Return the file of an artifact that this node needs. Raises NotFoundError for anything else."""
        ...

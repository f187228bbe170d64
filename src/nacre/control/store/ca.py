"""The tables of the certificate authority and their queries: the root with its sealed key, and what it has issued."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Column, Index, LargeBinary, Table, Text, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from nacre.control.store.db import Read, Tx, metadata
from nacre.control.store.rows import load
from nacre.control.store.types import Timestamp
from nacre.model.ids import NodeId

ROOT = "root"

authorities = Table(
    "authorities",
    metadata,
    Column("name", Text, primary_key=True),
    Column("certificate_pem", Text, nullable=False),
    Column("sealed_key", LargeBinary, nullable=False),
    Column("created_at", Timestamp, nullable=False),
)

node_certificates = Table(
    "node_certificates",
    metadata,
    Column("serial", Text, primary_key=True),
    Column("node", Text, nullable=False),
    Column("issued_at", Timestamp, nullable=False),
    Column("expires_at", Timestamp, nullable=False),
    Column("revoked_at", Timestamp),
    Index("ix_node_certificates_node", "node"),
)


@dataclass(frozen=True, kw_only=True)
class AuthorityRow:
    """A root certificate and its key, which only the master key opens."""

    name: str
    certificate_pem: str
    sealed_key: bytes
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class NodeCertificateRow:
    """A certificate that was issued to a node. The serial number is in hex."""

    serial: str
    node: NodeId
    issued_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = None


async def get_root(rd: Read) -> AuthorityRow | None:
    """Return the root, if one was made."""
    row = (await rd.connection.execute(select(authorities).where(authorities.c.name == ROOT))).one_or_none()
    return None if row is None else load(AuthorityRow, row)


async def add_root(tx: Tx, row: AuthorityRow) -> None:
    """Store the root unless another replica was first; read it back to see whose it is."""
    statement = postgresql_insert if tx.connection.dialect.name == "postgresql" else sqlite_insert
    await tx.connection.execute(statement(authorities).values(**vars(row)).on_conflict_do_nothing())


async def add_certificate(tx: Tx, row: NodeCertificateRow) -> None:
    """Note what was issued."""
    await tx.connection.execute(insert(node_certificates).values(**vars(row)))


async def certificates(rd: Read, serials: Iterable[str]) -> dict[str, NodeCertificateRow]:
    """Return those of the certificates that are known, by serial number."""
    query = select(node_certificates).where(node_certificates.c.serial.in_(list(serials)))
    rows = [load(NodeCertificateRow, row) for row in await rd.connection.execute(query)]
    return {row.serial: row for row in rows}


async def revoked(rd: Read) -> set[str]:
    """Return the serial numbers of the certificates that were revoked and have not ended."""
    query = select(node_certificates.c.serial).where(node_certificates.c.revoked_at.is_not(None))
    return set((await rd.connection.execute(query)).scalars())


async def expiries(rd: Read, nodes: Iterable[NodeId]) -> dict[NodeId, datetime]:
    """Return when the newest certificate of each node ends; nodes without a valid one are left out."""
    query = (
        select(node_certificates.c.node, func.max(node_certificates.c.expires_at))
        .where(node_certificates.c.node.in_(list(nodes)), node_certificates.c.revoked_at.is_(None))
        .group_by(node_certificates.c.node)
    )
    return {NodeId(node): expires_at for node, expires_at in await rd.connection.execute(query)}


async def revoke(tx: Tx, node: NodeId) -> None:
    """Make every certificate of a node worthless."""
    await tx.connection.execute(
        update(node_certificates)
        .where(node_certificates.c.node == node, node_certificates.c.revoked_at.is_(None))
        .values(revoked_at=tx.now())
    )


async def remove_expired(tx: Tx) -> None:
    """Forget certificates that no longer open anything."""
    await tx.connection.execute(delete(node_certificates).where(node_certificates.c.expires_at <= tx.now()))

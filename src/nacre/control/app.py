"""The control plane put together by hand: every part made once, in order, and handed to those who need it.

Called by `main`. Starts nothing by itself: what is to run is returned.
"""

import asyncio
import secrets
import traceback
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
from litestar.types import ASGIApp
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from nacre.control.api.metrics import Metrics
from nacre.control.api.parts import Check, Parts
from nacre.control.api.routes import serve
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.auth.claim import ensure_claim
from nacre.control.auth.own_root import read_own_root
from nacre.control.auth.sealing import load_sealer
from nacre.control.gateway.database import DatabaseLedger
from nacre.control.gateway.link import Terms
from nacre.control.gateway.server import Gateway, GatewaySettings, certificate_hosts
from nacre.control.reconcilers.drains import DrainReconciler
from nacre.control.reconcilers.failover import Failover
from nacre.control.reconcilers.housekeeping import Housekeeper
from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.reconcilers.images import ImageReconciler
from nacre.control.reconcilers.loop import Loop
from nacre.control.reconcilers.moves import MoveReconciler
from nacre.control.reconcilers.nodes import NodeWatch
from nacre.control.reconcilers.reliability import Reliabilities
from nacre.control.reconcilers.vms import Placer
from nacre.control.request import Requests
from nacre.control.services import enrolments, events, images, reliability, vms
from nacre.control.services.enrolments import Joining
from nacre.control.services.failover import Terms as FailoverTerms
from nacre.control.services.housekeeping import Keep
from nacre.control.services.image_files import ImageDepot
from nacre.control.services.image_uploads import ImageUploads
from nacre.control.settings import Settings
from nacre.control.store import notifications
from nacre.control.store.db import Database
from nacre.control.store.migrations import prepare_schema
from nacre.control.wake import Wakes
from nacre.errors import UnavailableError
from nacre.lib.clock import SystemClock
from nacre.lib.configuration import split_address
from nacre.lib.files import write_atomically
from nacre.schema.nodes import NodeTokenCreate

MASTER_KEY = "master.key"
TROUBLED_AFTER = 3
"""A reconciler that failed so often in a row makes the control plane not ready."""

_AWAY = (
    ConnectionError,
    OperationalError,
    InterfaceError,
    PoolTimeoutError,
    asyncpg.PostgresError,  # what the driver raises by itself while it connects
    asyncpg.InterfaceError,
)
_TRY_AGAIN = frozenset({"40001", "40P01"})
"""PostgreSQL gave up this transaction for another one: serialization failure, deadlock."""

Background = Callable[[], Coroutine[object, object, None]]


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control plane that is ready to run."""

    settings: Settings
    db: Database
    api: ASGIApp
    gateway: Gateway
    background: Sequence[tuple[str, Background]]
    """Work that goes on for as long as the program lives."""
    claim: str | None
    """What the first administrator proves to be the first with; None once there is one."""


@asynccontextmanager
async def opened(settings: Settings) -> AsyncGenerator[Database]:
    """Open the database, with its tables, for as long as the block lasts. Raises NacreError."""
    await asyncio.to_thread(settings.data.mkdir, mode=0o700, parents=True, exist_ok=True)
    db = Database.from_url(settings.database_url, SystemClock(), Wakes())
    db.on_commit(events.flush)
    try:
        await prepare_schema(db)
        yield db
    finally:
        await db.close()


@asynccontextmanager
async def control_plane(settings: Settings, stopping: asyncio.Event) -> AsyncGenerator[Control]:
    """Open everything for as long as the block lasts. Raises NacreError when something is not as it must be."""
    async with opened(settings) as db:
        yield await _assemble(settings, db, stopping)


async def _assemble(settings: Settings, db: Database, stopping: asyncio.Event) -> Control:
    sealer = await asyncio.to_thread(load_sealer, settings.data / MASTER_KEY)
    own = await asyncio.to_thread(read_own_root, settings.ca_certificate_file, settings.ca_key_file)
    ca = await CertificateAuthority.open(db, sealer, settings.domain, own)
    depot = ImageDepot.of(settings.data, settings.image_roots, settings.fetch_allow)
    gateway = _gateway(settings, db, ca, DatabaseLedger(db, ca, depot, settings.node_certificate_s, sealer))
    joining = Joining(gateway=settings.join_address, ca=ca.fingerprint)
    watched = reliability.Terms(heartbeat_s=settings.heartbeat_s, offline_after_s=settings.offline_after_s)
    reliabilities = Reliabilities(db, secrets.token_hex(8), watched)
    terms = FailoverTerms(
        lease_s=settings.lease_s, per_s=settings.failover_per_s, max_share=settings.failover_max_share
    )
    failover = Failover(db, secrets.token_hex(8), terms)
    loops = (
        Placer(db).loop(),
        NodeWatch(db, offline_after_s=settings.offline_after_s, hearing=gateway.hearing).loop(),
        failover.loop(),
        MoveReconciler(db).loop(),
        DrainReconciler(db).loop(),
        Housekeeper(db, secrets.token_hex(8), Keep()).loop(),
        reliabilities.loop(),
    )
    requests = Requests(db, stopping)
    release = version("nacre")
    metrics = Metrics(release)
    metrics.watch("nacre_linked_nodes", "Nodes whose link leads to this replica.", lambda: len(gateway.linked))
    metrics.tally(
        "nacre_heartbeats_missed_total",
        "Heartbeats that did not come although their node's link was up.",
        lambda: gateway.hearing.missed,
    )
    metrics.watch("nacre_flapping_nodes", "Nodes that come and go.", lambda: reliabilities.summary.flapping)
    metrics.watch("nacre_node_reliability_mean", "Mean reliability.", lambda: reliabilities.summary.mean)
    metrics.watch("nacre_node_reliability_lowest", "Lowest reliability.", lambda: reliabilities.summary.lowest)
    parts = Parts(
        version=release,
        settings=settings,
        requests=requests,
        streams=gateway.streams,
        uploads=ImageUploads(db, depot),
        metrics=metrics,
        cancellers={"vm": vms.cancel, "image": images.cancel},
        joining=joining,
        failover=failover.watching,
        sealer=sealer,
        outage=outage,
        phases=lambda: _phases(requests),
        checks=(_database_answers(requests), _gateway_listens(gateway), *(_goes_well(loop) for loop in loops)),
    )
    if settings.enrolment_token_file:
        await _write_join(db, joining, Path(settings.enrolment_token_file))
    return Control(
        settings=settings,
        db=db,
        api=serve(parts),
        gateway=gateway,
        background=(
            ("notifications", lambda: notifications.follow(db)),
            ("images", ImageReconciler(db, depot, nodes=NodeDisks(db=db, streams=gateway.streams)).run),
            *((loop.name, loop.run) for loop in loops),
        ),
        claim=await ensure_claim(db, settings.claim_path),
    )


def _gateway(settings: Settings, db: Database, ca: CertificateAuthority, ledger: DatabaseLedger) -> Gateway:
    host, port = split_address(settings.gateway_listen, field="gateway_listen")
    configuration = GatewaySettings(
        host=host,
        port=port,
        advertise=settings.gateway_address,
        hosts=certificate_hosts(settings.gateway_address, settings.gateway_listen),
        terms=Terms(
            heartbeat_s=settings.heartbeat_s,
            resync_s=settings.resync_s,
            lease_s=settings.lease_s,
            renew_s=settings.renew_s,
        ),
    )
    return Gateway(configuration, db, ca, ledger)


async def _write_join(db: Database, joining: Joining, path: Path) -> None:
    """Leave a fresh join string for the agent of this machine."""
    async with db.write() as tx:
        made = await enrolments.issue_local(tx, NodeTokenCreate(), joining)
    await asyncio.to_thread(write_atomically, path, f"{made.join}\n".encode(), mode=0o600)


def outage(error: Exception) -> UnavailableError | None:
    """Return what to tell callers when the database is away or asks for another try; None for any other error."""
    away = isinstance(error, _AWAY) or (isinstance(error, OSError) and _from_driver(error))
    if isinstance(error, DBAPIError):
        away = away or error.connection_invalidated or getattr(error.orig, "sqlstate", None) in _TRY_AGAIN
    if not away:
        return None
    return UnavailableError(
        "database_unavailable", "the database does not answer now", hint="nothing was changed; try again in a moment"
    )


def _from_driver(error: OSError) -> bool:
    """Whether the driver met this: a database on a Unix socket that is away is a file that is not there."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(frame.f_globals.get("__name__")).startswith("asyncpg.") for frame, _ in frames)


async def _phases(requests: Requests) -> dict[str, int] | None:
    try:
        return await requests.phases()
    except (SQLAlchemyError, OSError, *_AWAY):
        return None


def _database_answers(requests: Requests) -> Check:
    async def reason() -> str | None:
        try:
            await requests.ping()
        except (SQLAlchemyError, OSError, *_AWAY) as error:
            return f"the database does not answer ({type(error).__name__})"
        return None

    return Check(name="database", reason=reason)


def _gateway_listens(gateway: Gateway) -> Check:
    async def reason() -> str | None:
        return None if gateway.listening else "the gateway for agents does not listen"

    return Check(name="gateway", reason=reason)


def _goes_well(loop: Loop) -> Check:
    async def reason() -> str | None:
        failures = loop.failures
        return None if failures < TROUBLED_AFTER else f"failed {failures} times in a row; the log says why"

    return Check(name=f"reconciler-{loop.name}", reason=reason)

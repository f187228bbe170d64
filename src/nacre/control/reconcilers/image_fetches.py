"""Brings one artifact into the depot, from where it is. Called by the reconciler under a claim.

A fetch from a URL goes on where it broke off if the server can say that the file is still the same. Everything else, a
path on this host, another image or the disk of a machine on its node, is read anew.
"""

import asyncio
import os
from dataclasses import dataclass, field

from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.services import image_facts
from nacre.control.services.image_files import ImageDepot, PartFile, open_artifact, too_large
from nacre.control.services.image_finishing import finish
from nacre.control.store.db import Database
from nacre.control.store.images import Origin, Part
from nacre.errors import InvalidInputError, UnavailableError
from nacre.lib.fetch import Begun, Fetcher, Resume
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId
from nacre.model.units import MIB

_RECORD_BYTES = 64 * MIB
_RECORD_S = 1.0
_COPY = 8 * MIB


@dataclass(frozen=True, kw_only=True)
class Sources:
    """How artifacts are got at."""

    fetcher: Fetcher
    nodes: NodeDisks | None = None
    """None where no node can be asked."""


async def bring(db: Database, depot: ImageDepot, sources: Sources, image: ImageId, part: Part, claim: str) -> None:
    """Fetch, verify and finish an artifact. Raises NacreError; `retryable` says whether to try again."""
    file = await in_thread(depot.open_part, image, part.role)
    try:
        have = min(file.size, part.received_bytes) if part.validator else 0
        arrival = _Arrival(db, image, part, claim, file)
        try:
            await _fetch(depot, sources, part, arrival, Resume(offset=have, validator=part.validator))
        finally:
            await arrival.record()  # also what came before it broke off
        try:
            verified = await in_thread(file.verify, part)
        except InvalidInputError as error:
            if have:
                await arrival.begin(Begun(offset=0, total=None, validator=""))
                raise UnavailableError(
                    error.code, error.message, hint="it was fetched in parts, and is again"
                ) from error
            raise
        await finish(db, depot, image, part.role, verified, claim=claim)
    finally:
        await in_thread(file.close)


async def _fetch(depot: ImageDepot, sources: Sources, part: Part, arrival: "_Arrival", resume: Resume) -> None:
    match part.origin:
        case Origin.URL:
            await sources.fetcher.fetch(part.location, arrival, resume)
        case Origin.CHECKPOINT:
            if sources.nodes is None:
                raise UnavailableError("no_gateway", "no node can be asked here", hint="it is tried again elsewhere")
            await sources.nodes.fetch(part.location, arrival, arrival.gathering, max_bytes=depot.max_bytes)
        case Origin.IMAGE:
            source = await in_thread(open_artifact, depot.path(ImageId(part.location), part.role))
            await _copy(depot, source, arrival)
        case Origin.PATH:
            source = await in_thread(depot.open_registered, part.location)
            await _copy(depot, source, arrival)
        case Origin.UPLOAD:
            raise AssertionError("uploads come by themselves")


async def _copy(depot: ImageDepot, source: int, arrival: "_Arrival") -> None:
    """Copy an open file, and close it. Always from the start: it may have changed."""
    try:
        total = os.fstat(source).st_size
        if total > depot.max_bytes:
            raise too_large(total, depot.max_bytes)
        await arrival.begin(Begun(offset=0, total=total, validator=""))
        offset = 0
        while offset < total and (data := await in_thread(os.pread, source, _COPY, offset)):
            await arrival.write(data)
            offset += len(data)
    finally:
        await in_thread(os.close, source)


@dataclass(kw_only=False)
class _Arrival:
    """Where the bytes go: a file in the depot, and the row that says how far it is."""

    db: Database
    image: ImageId
    part: Part
    claim: str
    file: PartFile
    recorded: int = 0
    recorded_at: float = 0.0
    buffer: bytearray = field(default_factory=bytearray)

    async def begin(self, begun: Begun) -> None:
        """See `fetch.Sink`. What is announced is checked before anything is brought."""
        wanted = self.part.size_bytes
        if wanted is not None and begun.total is not None and begun.total != wanted:
            raise InvalidInputError(
                "image_size_mismatch",
                f"the {self.part.role} has {begun.total} bytes there, announced were {wanted}",
                hint="check the link and what was announced",
            )
        await in_thread(self.file.cut, begun.offset)
        if begun.total is not None:
            await in_thread(self.file.expect, begun.total)
        await self._record(total=begun.total, validator=begun.validator)

    async def write(self, data: bytes) -> None:
        """See `fetch.Sink`."""
        self.buffer += data
        if len(self.buffer) < MIB:
            return
        await self._flush()
        late = asyncio.get_running_loop().time() - self.recorded_at >= _RECORD_S
        if late or self.file.size - self.recorded >= _RECORD_BYTES:
            await self._record()

    async def gathering(self, gathered: int) -> None:
        """A node is making a copy, and has come so far with it."""
        async with self.db.write() as tx:
            await image_facts.gathering(tx, self.image, self.part.role, gathered, claim=self.claim)

    async def record(self) -> None:
        """Write down all that has come. What does not fit on the disk is not kept."""
        try:
            await self._flush()
        finally:
            if self.file.size != self.recorded:
                await self._record()

    async def _flush(self) -> None:
        data, self.buffer = self.buffer, bytearray()
        if data:
            await in_thread(self.file.append, data)

    async def _record(self, *, total: int | None = None, validator: str | None = None) -> None:
        await in_thread(self.file.sync)
        async with self.db.write() as tx:
            await image_facts.arrived(
                tx,
                self.image,
                self.part.role,
                self.file.size,
                claim=self.claim,
                total=total,
                validator=validator,
            )
        self.recorded, self.recorded_at = self.file.size, asyncio.get_running_loop().time()

"""Brings images from where they are to where nodes get them from, and takes deleted ones away.

One of these runs in every replica; a claim on the row keeps two from doing the same. A claim is renewed while the work
goes on and is worth nothing afterwards: whoever lost it finds out at the next write and stops. Killed at any point,
the next one continues with what is on the disk and in the row.
"""

import asyncio
import secrets
from collections.abc import Collection, Coroutine
from datetime import timedelta
from functools import partial

import structlog

from nacre.control.reconcilers.image_conversions import Converter
from nacre.control.reconcilers.image_exports import NodeDisks
from nacre.control.reconcilers.image_fetches import Sources, bring
from nacre.control.reconcilers.image_sweeps import sweep
from nacre.control.reconcilers.loop import Loop
from nacre.control.services import image_facts
from nacre.control.services.image_facts import ImageGoneError
from nacre.control.services.image_files import ImageDepot
from nacre.control.store import images as store
from nacre.control.store.db import Database, Tx
from nacre.control.store.images import ImageRow, Origin, Stage
from nacre.control.wake import IMAGES
from nacre.errors import NacreError, UnavailableError
from nacre.lib.fetch import Fetcher
from nacre.lib.tasks import apart
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId
from nacre.model.images import ImageState

log = structlog.get_logger()

CLAIM_S = 12.0
SWEEP_S = 600.0
_SHORTEST_S = 0.05
_COMING = frozenset({ImageState.UPLOADING, ImageState.FETCHING})
_GOING = frozenset({ImageState.DELETING, ImageState.FAILED})


class ImageReconciler:
    """Takes what is due and works on it, several at a time."""

    def __init__(
        self,
        db: Database,
        depot: ImageDepot,
        *,
        fetcher: Fetcher | None = None,
        nodes: NodeDisks | None = None,
        converter: Converter | None = None,
        at_once: int = 4,
        claim_s: float = CLAIM_S,
        renew_s: float = CLAIM_S / 3,
    ) -> None:
        self._db = db
        self._depot = depot
        self._sources = Sources(fetcher=fetcher or Fetcher(guard=depot.guard), nodes=nodes)
        self._converter = converter or Converter()
        self._at_once = at_once
        self._claim_for = timedelta(seconds=claim_s)
        self._renew_s = renew_s
        self._running: dict[ImageId, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._told: set[ImageId] = set()

    async def run(self) -> None:
        """Work until cancelled; claims are then given back, so that the next start goes on at once."""
        rounds = Loop("images", self._db.wakes, [IMAGES], self._round)
        sweeps = Loop("images.sweep", self._db.wakes, [], self._sweep, poll_s=SWEEP_S)
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(rounds.run())
            group.create_task(sweeps.run())

    async def _round(self) -> float | None:
        """Start what is due, and return when the next is. Work that ends rings the bell."""
        while (row := await self._claim(_GOING)) is not None:
            await self._take_away(row)
        while len(self._running) < self._at_once:
            row = await self._claim(_COMING)
            if row is None:
                break
            task = self._start(self._work(row))
            self._running[row.id] = task
            task.add_done_callback(partial(self._ended, row.id))
        async with self._db.read() as rd:
            due = await store.next_work(rd)
        if due is None or len(self._running) >= self._at_once:
            return None
        return max(_SHORTEST_S, (due - self._db.clock.now()).total_seconds())

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        assert self._group is not None, "run() starts rounds"
        return self._group.create_task(work)

    def _ended(self, image: ImageId, task: asyncio.Task[None]) -> None:
        if self._running.get(image) is task:
            del self._running[image]
        self._db.wakes.ring(IMAGES)

    async def _claim(self, states: Collection[ImageState]) -> ImageRow | None:
        async with self._db.write() as tx:
            return await store.claim_due(tx, states, secrets.token_hex(8), tx.now() + self._claim_for)

    async def _take_away(self, row: ImageRow) -> None:
        """Delete the files of an image, then its row unless it tells of a failure."""
        claim = row.claim or ""
        if (working := self._running.get(row.id)) is not None:
            working.cancel()
            await asyncio.wait([working])
        await in_thread(self._depot.remove, row.id)
        async with self._db.write() as tx:
            if row.state is ImageState.DELETING:
                await image_facts.removed(tx, row.id, claim)
            else:
                await image_facts.cleaned(tx, row.id, claim)

    async def _work(self, row: ImageRow) -> None:
        """Bring in one image, as far as that is possible now, and record how that went."""
        claim = row.claim or ""
        trouble: NacreError | None = None
        try:
            trouble = await apart(self._try(row, claim))
        except asyncio.CancelledError:
            async with self._db.write() as tx:
                await image_facts.released(tx, row.id, claim)
            raise
        except Exception:
            log.exception("image.import_failed", image=row.id, next="tried again later")
            trouble = UnavailableError("image_import_failed", "the import failed here", hint="it is tried again")
        try:
            async with self._db.write() as tx:
                await _settle(tx, row.id, claim, trouble)
        except ImageGoneError:
            log.info("image.import_dropped", image=row.id)

    async def _try(self, row: ImageRow, claim: str) -> NacreError | None:
        """Import under a claim that is kept; return what went wrong, if it is one of our own errors."""
        trouble: list[NacreError] = []
        try:
            async with asyncio.TaskGroup() as group:
                keeping = group.create_task(self._keep(row.id, claim))
                await self._import(row, claim)
                keeping.cancel()
        except* NacreError as errors:
            trouble = [error for error in errors.exceptions if isinstance(error, NacreError)]
        return trouble[0] if trouble else None

    async def _keep(self, image: ImageId, claim: str) -> None:
        """Renew the claim in time and look at it whenever images change. Raises ImageGoneError when it was lost.

        A claim that ended because all of the image is recorded was not lost: what is left to do is to clean up.
        """
        with self._db.wakes.listen(IMAGES) as bell:
            while True:
                await bell.wait(self._renew_s)
                async with self._db.write() as tx:
                    if await store.renew(tx, image, claim, tx.now() + self._claim_for):
                        continue
                    row = await store.get(tx, image)
                if row is None or row.state is not ImageState.READY:
                    raise ImageGoneError
                return

    async def _import(self, row: ImageRow, claim: str) -> None:
        for part in row.parts:
            if part.stage is Stage.RECEIVING and part.origin is not Origin.UPLOAD:
                await bring(self._db, self._depot, self._sources, row.id, part, claim)
        async with self._db.read() as rd:
            now = await store.get(rd, row.id)
        for part in now.parts if now is not None else ():
            if part.stage is Stage.CONVERTING:
                await self._converter.convert(self._db, self._depot, row.id, part, claim)

    async def _sweep(self) -> None:
        await sweep(self._db, self._depot, self._told)


async def _settle(tx: Tx, image: ImageId, claim: str, trouble: NacreError | None) -> None:
    if trouble is None or isinstance(trouble, ImageGoneError):
        await image_facts.released(tx, image, claim)
    elif trouble.retryable:
        at = await image_facts.later(tx, image, trouble, claim=claim)
        if at is not None:
            log.info("image.import_delayed", image=image, code=trouble.code, error=trouble.message, next_try_at=str(at))
    else:
        await image_facts.failed(tx, image, trouble, claim=claim)

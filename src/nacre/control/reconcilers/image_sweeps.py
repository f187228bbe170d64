"""Finds what was left behind: uploads that nobody goes on with, files that a crash left. Called now and then by the
reconciler of images. A finished artifact of an image that the database does not know is told of and never deleted:
the database may be the one that is wrong.
"""

from datetime import timedelta

import structlog

from nacre.control.services import image_facts
from nacre.control.services.image_files import ImageDepot
from nacre.control.store import images as store
from nacre.control.store.db import Database
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId, looks_like_id
from nacre.model.images import ImageState

log = structlog.get_logger()

UPLOAD_IDLE_S = 24 * 3600.0
LEFTOVER_S = 3600.0


async def sweep(db: Database, depot: ImageDepot, held: set[ImageId], *, leftover_s: float = LEFTOVER_S) -> None:
    """Give up idle uploads and remove leftover files. `held` remembers what has been told of. May run anywhere."""
    await _give_up_uploads(db)
    found = [image for image in await in_thread(depot.leftovers) if looks_like_id(image)]
    async with db.read() as rd:
        known = {row.id: row for row in await store.many(rd, found)}
    for image in found:
        row = known.get(image)
        if row is None:
            await _unknown(depot, image, held, leftover_s)
        elif row.state is ImageState.READY:
            for part in row.parts:
                await in_thread(depot.clean, image, part.role)


async def _give_up_uploads(db: Database) -> None:
    since = db.clock.now() - timedelta(seconds=UPLOAD_IDLE_S)
    async with db.read() as rd:
        idle = await store.idle_uploads(rd, since)
    for image in idle:
        async with db.write() as tx:
            await image_facts.abandoned(tx, image, since)


async def _unknown(depot: ImageDepot, image: ImageId, held: set[ImageId], leftover_s: float) -> None:
    if await in_thread(depot.idle_s, image) < leftover_s:
        return
    if not await in_thread(depot.holds_artifacts, image):
        await in_thread(depot.remove, image)
        log.info("image.leftover_removed", image=image)
    elif image not in held:
        held.add(image)
        log.warning("image.unknown_files", image=image, next="kept: restore its row, or remove the folder by hand")

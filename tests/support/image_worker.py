"""A reconciler of images in a process of its own, to be killed. Run with a database URL, a data directory, a root."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from nacre.control.reconcilers.images import ImageReconciler
from nacre.control.services import events
from nacre.control.services.image_files import ImageDepot
from nacre.control.store.db import Database
from nacre.control.wake import Wakes
from nacre.lib.clock import SystemClock


async def main(url: str, data: str, root: str) -> None:
    database = Database.from_url(url, SystemClock(), Wakes())
    database.on_commit(events.flush)
    depot = replace(ImageDepot.of(Path(data), image_roots=(root,)), reserve_bytes=0)
    print("working", flush=True)
    await ImageReconciler(database, depot, claim_s=0.3, renew_s=0.1).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))

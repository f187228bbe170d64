"""The last step of an artifact: from a verified file to one that nodes may fetch. Called by uploads and the reconciler.

The file is put in place before the database says so. Killed in between, `ImageDepot.open_part` takes it back and the
step is done again.
"""

from nacre.control.services import image_facts
from nacre.control.services.image_files import ImageDepot, Verified, format_of
from nacre.control.store.db import Database
from nacre.lib.threads import in_thread
from nacre.model.ids import ImageId
from nacre.model.images import Artifact, Format, Role

TO_CONVERT = frozenset({Format.VMDK, Format.VHD})
"""What nodes do not take."""


async def finish(
    db: Database, depot: ImageDepot, image: ImageId, role: Role, verified: Verified, *, claim: str | None = None
) -> bool:
    """Make a verified file an artifact; False if it must be converted first, which the reconciler then does."""
    found = format_of(verified.recognised)
    if found in TO_CONVERT:
        async with db.write() as tx:
            await image_facts.to_convert(tx, image, role, found, claim=claim)
        return False
    await in_thread(depot.finish, image, role, converted=False)
    await _record(db, image, role, verified, claim)
    return True


async def finish_converted(
    db: Database, depot: ImageDepot, image: ImageId, role: Role, verified: Verified, *, claim: str
) -> None:
    """Make a converted file an artifact and forget what it was converted from."""
    await in_thread(depot.finish, image, role, converted=True)
    await _record(db, image, role, verified, claim)
    await in_thread(depot.clean, image, role)


async def _record(db: Database, image: ImageId, role: Role, verified: Verified, claim: str | None) -> None:
    artifact = Artifact(
        role=role,
        format=format_of(verified.recognised),
        size_bytes=verified.size_bytes,
        sha256=verified.sha256,
        virtual_size_bytes=verified.recognised.virtual_bytes,
    )
    async with db.write() as tx:
        await image_facts.done(tx, image, artifact, claim=claim)

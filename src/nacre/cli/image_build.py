"""Building an image on this machine and bringing it in. Used by `image.py`; imported only then."""

import asyncio
import tempfile
from pathlib import Path

from nacre import tiny
from nacre.cli import progress
from nacre.cli.image_import import Source, bring_in, plan_import
from nacre.cli.session import Session
from nacre.model.images import ImageDefaults, Visibility
from nacre.model.units import MIB
from nacre.schema.images import ImageCreate, ImageOut

TINY_MEMORY = 128 * MIB


async def build_tiny(session: Session, name: str, *, public: bool, timeout_s: float) -> ImageOut:
    """Build the tiny image in a temporary folder, and import it. Raises NacreError."""
    project = session.project  # before the work: not logged in is said at once
    with tempfile.TemporaryDirectory(prefix="nacre-tiny-") as folder:
        with progress.spinner(f"{name}: building") as say:
            built = await asyncio.to_thread(tiny.build, Path(folder), say)
        parts = plan_import(Source(kernel=str(built.kernel), initrd=str(built.initrd)))
        body = ImageCreate(
            name=name,
            artifacts=tuple(part.artifact for part in parts),
            project=project,
            visibility=Visibility.PUBLIC if public else Visibility.PRIVATE,
            kernel_args=built.kernel_args,
            defaults=ImageDefaults(cpus=1, memory_bytes=TINY_MEMORY),
        )
        return await bring_in(session, body, parts, timeout_s, wait=True)

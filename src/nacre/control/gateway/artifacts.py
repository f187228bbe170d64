"""Bytes of images for the caches of nodes: /artifact. One artifact per connection, from any offset.

Called by `gateway/server.py`. A node gets only what its desired state mentions; the ledger knows.
"""

import asyncio
from io import FileIO
from pathlib import Path

from websockets.asyncio.server import ServerConnection

from nacre.control.auth.ca import Peer
from nacre.control.gateway import wire
from nacre.control.gateway.ledger import Ledger
from nacre.errors import InvalidInputError, NacreError, NotFoundError
from nacre.protocol.codec import CHUNK_BYTES
from nacre.protocol.messages import ArtifactHeader, GetArtifact


async def serve(connection: ServerConnection, peer: Peer, ledger: Ledger) -> None:
    """Answer one request: a header, then the rest of the file in binary frames."""
    request = await wire.first(connection, GetArtifact)
    try:
        file, size = await _open(await ledger.artifact(peer.node, request.image, request.role), request.offset)
    except NacreError as error:
        refusal = ArtifactHeader(ok=False, code=error.code, message=error.message, hint=error.hint)
        await wire.send(connection, refusal)
        return
    try:
        await wire.send(connection, ArtifactHeader(ok=True, size_bytes=size))
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            await wire.send_bytes(connection, chunk)
    finally:
        file.close()


async def _open(path: Path, offset: int) -> tuple[FileIO, int]:
    def opened() -> tuple[FileIO, int]:
        file = path.open("rb", buffering=0)
        size = file.seek(0, 2)
        file.seek(max(0, min(offset, size)))
        return file, size

    try:
        file, size = await asyncio.to_thread(opened)
    except OSError as error:
        raise NotFoundError(
            "artifact_not_found", "the artifact is not there (any more)", hint="import the image again"
        ) from error
    if not 0 <= offset <= size:
        file.close()
        raise InvalidInputError(
            "offset_out_of_range", f"the artifact has {size} bytes, {offset} was asked for", hint="start again at 0"
        )
    return file, size

"""Copies of disks that go to the control plane, each on a stream of its own. Opened by `reporting`, wired by `main`.

A copy lives as long as its stream: whoever comes back begins anew. What a killed agent leaves goes when one begins.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import structlog

from nacre.agent.guest_streams import FIRST_FRAME_S, Frames
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.export import RESERVE_BYTES, export, gathered
from nacre.agent.vms.host import Host
from nacre.errors import InvalidInputError, NacreError, NotFoundError, UnavailableError
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.exports import BUSY, DiskStatus, DiskWanted
from nacre.model.ids import CheckpointId, VmId, looks_like_id

AT_ONCE = 2
STATUS_S = 5.0
"""How often is said how far a copy is; also what shows that the agent is still at it."""
_BLOCK = 1 << 20

log = structlog.get_logger()


class Exports:
    """Those of one node."""

    def __init__(
        self,
        host: Host,
        *,
        ended: Callable[[VmId], None],
        at_once: int = AT_ONCE,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """`ended` hears of machines whose layers nobody reads any more."""
        self._host = host
        self._ended = ended
        self._at_once = at_once
        self._reserve = reserve_bytes
        self._open = 0

    async def begin(self) -> None:
        """Remove what a killed agent has left."""
        await in_thread(shutil.rmtree, self._host.exports, ignore_errors=True)

    @asynccontextmanager
    async def opened(self, vm: VmId) -> AsyncGenerator["Export"]:
        """Open a way for one disk of a machine. Raises UnavailableError while there are others enough."""
        if not looks_like_id(vm):  # anything else could be a way out of the folder
            raise NotFoundError(
                "vm_not_here", "there is no such machine on the node", hint="look at the machine's node"
            )
        if self._open >= self._at_once:
            raise UnavailableError(
                BUSY, f"the node sends {self._open} other disks at the moment", hint="it is tried again by itself"
            )
        self._open += 1
        place = self._host.exports / secrets.token_hex(10)
        one = Export(vm, self._host, place, self._reserve)
        try:
            yield one
        finally:
            try:
                await one.close()
                await in_thread(shutil.rmtree, place, ignore_errors=True)
            finally:
                self._open -= 1
                self._ended(vm)


class Export(Frames):
    """One disk."""

    def __init__(self, vm: VmId, host: Host, place: Path, reserve_bytes: int) -> None:
        super().__init__()
        self._vm = vm
        self._host = host
        self._place = place
        self._reserve = reserve_bytes
        self._copying: asyncio.Task[Path] | None = None
        self._file: int | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Make the copy that is asked for, say how far it is, and yield it."""
        try:
            checkpoint = await self._wanted()
            await in_thread(self._make_place)
            copying = export(self._vm, checkpoint, self._host, self._place, reserve_bytes=self._reserve)
            self._copying = asyncio.create_task(copying, name=f"export {self._vm}")
            while not (await asyncio.wait({self._copying}, timeout=STATUS_S))[0]:
                yield msgspec.json.encode(DiskStatus(gathered_bytes=await in_thread(gathered, self._place)))
            path = self._copying.result()
        except (NacreError, OSError) as error:
            log.warning("disk.not_exported", vm=self._vm, error=str(error), next="the control plane decides")
            yield msgspec.json.encode(_refusal(error))
            return
        self._file = file = await in_thread(os.open, path, os.O_RDONLY | os.O_CLOEXEC)
        size, offset = os.fstat(file).st_size, 0
        yield msgspec.json.encode(DiskStatus(gathered_bytes=size, size_bytes=size))
        while data := await in_thread(os.pread, file, _BLOCK, offset):
            yield data
            offset += len(data)
        log.info("disk.exported", vm=self._vm, checkpoint=checkpoint, size_bytes=size)

    async def close(self) -> None:
        """Give the copy up if it is still being made, and let go of it."""
        if self._copying is not None:
            self._copying.cancel()
            await asyncio.wait({self._copying})
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _make_place(self) -> None:
        self._place.parent.mkdir(mode=0o700, exist_ok=True)
        self._place.mkdir(mode=0o700)

    async def _wanted(self) -> CheckpointId:
        try:
            wanted = msgspec.json.decode(await self.next(FIRST_FRAME_S), type=DiskWanted).checkpoint
        except msgspec.MsgspecError as error:
            raise InvalidInputError(
                "invalid_query", "what is wanted cannot be read", hint="update the control plane or the agent"
            ) from error
        if not looks_like_id(wanted):
            raise InvalidInputError("invalid_query", "this is no checkpoint", hint="give its id")
        return wanted


def _refusal(error: NacreError | OSError) -> DiskStatus:
    """Say why there is no copy. Pure."""
    if isinstance(error, OSError):
        return DiskStatus(
            code="storage_failed",
            message="the node could not copy the disk",
            hint="look at the node's storage; it is tried again by itself",
            retryable=True,
        )
    passing = error.failure_class is not FailureClass.PERMANENT if isinstance(error, DriverError) else error.retryable
    return DiskStatus(code=error.code, message=error.message, hint=error.hint, retryable=passing)

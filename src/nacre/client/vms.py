"""Virtual machines through the API."""

from collections.abc import AsyncIterator
from datetime import datetime

import httpx2
import msgspec

from nacre.client.collection import EVERYTHING, Collection, Query, in_project, segment
from nacre.client.events import SILENCE_S
from nacre.client.transport import Transport
from nacre.model.metrics import MetricPoint, MetricSeries
from nacre.schema.checkpoints import CheckpointCreate, CheckpointOut, CheckpointUpdate, VmRestore
from nacre.schema.common import Accepted, AcceptedBatch, Page
from nacre.schema.guests import CommandOut, VmExec
from nacre.schema.moves import MoveOut, VmMove
from nacre.schema.templates import PreviewOut
from nacre.schema.vms import VmCreate, VmOut, VmStop, VmUpdate
from nacre.schema.volumes import AttachmentOut, VolumeAttach

AcceptedVm = Accepted[VmOut]
AcceptedVms = AcceptedBatch[VmOut]


class Vms(Collection[VmOut]):
    """`/v1/vms`. Every verb returns when the change is durable, or when it is true if `wait_s` allows for it."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/vms", VmOut, Page[VmOut])

    async def create(self, body: VmCreate, *, wait_s: float = 0) -> AcceptedVms:
        """Create a machine, or with `count` several: all of them or none."""
        return await self._transport.change("POST", self._path, AcceptedVms, body=body, wait_s=wait_s)

    async def preview(self, body: VmCreate) -> PreviewOut:
        """Say what `create` would make, and for every field where its value comes from. Changes nothing."""
        return await self._transport.change("POST", "/v1/preview", PreviewOut, body=body)

    async def update(
        self, ref: str, body: VmUpdate, *, project: str | None = None, if_match: str | None = None, wait_s: float = 0
    ) -> AcceptedVm:
        """Change fields of a machine; with `if_match`, only if it is still as it was read."""
        return await self._transport.change(
            "PATCH",
            self.at(ref),
            AcceptedVm,
            body=body,
            params=in_project(project),
            if_match=if_match,
            wait_s=wait_s,
        )

    async def delete(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Delete a machine and its disk."""
        return await self._transport.change(
            "DELETE", self.at(ref), AcceptedVm, params=in_project(project), wait_s=wait_s
        )

    async def start(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Start a machine."""
        return await self._verb(ref, "start", project, wait_s)

    async def stop(self, ref: str, *, force: bool = False, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Stop a machine: ask its guest first, unless `force`."""
        return await self._transport.change(
            "POST",
            self.at(ref, "stop"),
            AcceptedVm,
            body=VmStop(force=force),
            params=in_project(project),
            wait_s=wait_s,
        )

    async def reboot(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Ask the guest to shut down, then start it again."""
        return await self._verb(ref, "reboot", project, wait_s)

    async def reset(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Press the reset button."""
        return await self._verb(ref, "reset", project, wait_s)

    async def pause(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Stop the virtual CPUs; memory stays."""
        return await self._verb(ref, "pause", project, wait_s)

    async def resume(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Let the virtual CPUs run again."""
        return await self._verb(ref, "resume", project, wait_s)

    async def move(self, ref: str, body: VmMove, *, project: str | None = None) -> MoveOut:
        """Move a machine to another node. Returns when the move has begun; `moves` says how it stands."""
        return await self._transport.change(
            "POST", self.at(ref, "move"), MoveOut, body=body, params=in_project(project)
        )

    async def attach(
        self, ref: str, body: VolumeAttach, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVm:
        """Attach a volume to a machine."""
        return await self._transport.change(
            "POST", self.at(ref, "volumes"), AcceptedVm, body=body, params=in_project(project), wait_s=wait_s
        )

    async def detach(self, ref: str, volume: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Take a volume back from a machine."""
        path = self.at(ref, "volumes", segment(volume))
        return await self._transport.change("DELETE", path, AcceptedVm, params=in_project(project), wait_s=wait_s)

    async def volumes(self, ref: str, *, project: str | None = None) -> list[AttachmentOut]:
        """Return the volumes of a machine."""
        found = await self._transport.read(self.at(ref, "volumes"), Page[AttachmentOut], params=in_project(project))
        return found.items

    async def checkpoint(
        self, ref: str, body: CheckpointCreate, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVm:
        """Take a checkpoint of a machine."""
        return await self._transport.change(
            "POST", self.at(ref, "checkpoints"), AcceptedVm, body=body, params=in_project(project), wait_s=wait_s
        )

    async def checkpoints(self, ref: str, query: Query = EVERYTHING) -> list[CheckpointOut]:
        """Return the checkpoints of a machine."""
        below = Collection(self._transport, self.at(ref, "checkpoints"), CheckpointOut, Page[CheckpointOut])
        return await below.all(query)

    async def show_checkpoint(self, ref: str, checkpoint: str, *, project: str | None = None) -> CheckpointOut:
        """Return one checkpoint of a machine."""
        path = self.at(ref, "checkpoints", segment(checkpoint))
        return await self._transport.read(path, CheckpointOut, params=in_project(project))

    async def update_checkpoint(
        self, ref: str, checkpoint: str, body: CheckpointUpdate, *, project: str | None = None
    ) -> CheckpointOut:
        """Describe a checkpoint, protect it or not, and say when it expires."""
        path = self.at(ref, "checkpoints", segment(checkpoint))
        return await self._transport.change("PATCH", path, CheckpointOut, body=body, params=in_project(project))

    async def delete_checkpoint(
        self, ref: str, checkpoint: str, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVm:
        """Delete a checkpoint."""
        path = self.at(ref, "checkpoints", segment(checkpoint))
        return await self._transport.change("DELETE", path, AcceptedVm, params=in_project(project), wait_s=wait_s)

    async def restore(self, ref: str, body: VmRestore, *, project: str | None = None, wait_s: float = 0) -> AcceptedVm:
        """Put a machine back to a checkpoint."""
        return await self._transport.change(
            "POST", self.at(ref, "restore"), AcceptedVm, body=body, params=in_project(project), wait_s=wait_s
        )

    async def log(self, ref: str, *, tail_bytes: int | None = None, project: str | None = None) -> bytes:
        """Return what the serial console printed, or the last `tail_bytes` of it."""
        params = in_project(project)
        if tail_bytes is not None:
            params.append(("tail_bytes", str(tail_bytes)))
        return await self._transport.read_text(self.at(ref, "log"), params=params)

    async def run(self, ref: str, body: VmExec, *, project: str | None = None) -> CommandOut:
        """Run a command in a guest and return its record when it has ended."""
        return await self._transport.change(
            "POST", self.at(ref, "exec"), CommandOut, body=body, params=in_project(project), answer_s=body.timeout_s
        )

    async def commands(self, ref: str, *, project: str | None = None) -> list[CommandOut]:
        """Return the recorded commands of a machine, the newest first."""
        page = await self._transport.read(self.at(ref, "commands"), Page[CommandOut], params=in_project(project))
        return page.items

    async def metrics(
        self,
        ref: str,
        *,
        begin: datetime | None = None,
        end: datetime | None = None,
        step_s: int | None = None,
        project: str | None = None,
    ) -> MetricSeries:
        """Return what a machine used: in the last hour, or from `begin` to `end`."""
        wanted = {"from": begin and begin.isoformat(), "to": end and end.isoformat(), "step": step_s}
        params = [*in_project(project), *((name, str(value)) for name, value in wanted.items() if value is not None)]
        return await self._transport.read(self.at(ref, "metrics"), MetricSeries, params=params)

    async def follow_metrics(self, ref: str, *, project: str | None = None) -> AsyncIterator[MetricPoint]:
        """Yield what a machine uses, as it is measured. Ends when the server ends the stream. Raises NacreError."""
        async with self._transport.open_stream(
            self.at(ref, "metrics/live"),
            params=in_project(project),
            headers={"Accept": "text/event-stream", "Cache-Control": "no-store"},
            silence_s=SILENCE_S,
        ) as response:
            async for message in httpx2.EventSource(response):
                if message.data:
                    yield msgspec.json.decode(message.data, type=MetricPoint)

    async def _verb(self, ref: str, verb: str, project: str | None, wait_s: float) -> AcceptedVm:
        return await self._transport.change(
            "POST", self.at(ref, verb), AcceptedVm, params=in_project(project), wait_s=wait_s
        )

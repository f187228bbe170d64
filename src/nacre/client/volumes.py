"""Pools and volumes through the API."""

from nacre.client.collection import EVERYTHING, Collection, Query, in_project, segment
from nacre.client.transport import Transport
from nacre.schema.common import Accepted, Page
from nacre.schema.volumes import (
    PoolCreate,
    PoolOut,
    PoolUpdate,
    SnapshotCreate,
    SnapshotOut,
    SnapshotUpdate,
    VolumeClone,
    VolumeCreate,
    VolumeOut,
    VolumeRestore,
    VolumeUpdate,
)

AcceptedVolume = Accepted[VolumeOut]


class Pools(Collection[PoolOut]):
    """`/v1/pools`."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/pools", PoolOut, Page[PoolOut])

    async def create(self, body: PoolCreate) -> PoolOut:
        """Create a pool."""
        return await self._transport.change("POST", self._path, PoolOut, body=body)

    async def update(self, ref: str, body: PoolUpdate, *, if_match: str | None = None) -> PoolOut:
        """Change which nodes have a pool."""
        return await self._transport.change("PATCH", self.at(ref), PoolOut, body=body, if_match=if_match)

    async def delete(self, ref: str) -> None:
        """Forget a pool that has no volumes."""
        await self._transport.change("DELETE", self.at(ref), type(None))


class Volumes(Collection[VolumeOut]):
    """`/v1/volumes`. Every verb returns when the change is durable, or when it is true if `wait_s` allows for it."""

    def __init__(self, transport: Transport) -> None:
        super().__init__(transport, "/v1/volumes", VolumeOut, Page[VolumeOut])

    async def create(self, body: VolumeCreate, *, wait_s: float = 0) -> AcceptedVolume:
        """Create a volume."""
        return await self._transport.change("POST", self._path, AcceptedVolume, body=body, wait_s=wait_s)

    async def update(
        self,
        ref: str,
        body: VolumeUpdate,
        *,
        project: str | None = None,
        if_match: str | None = None,
        wait_s: float = 0,
    ) -> AcceptedVolume:
        """Change labels, or make a volume larger."""
        return await self._transport.change(
            "PATCH",
            self.at(ref),
            AcceptedVolume,
            body=body,
            params=in_project(project),
            if_match=if_match,
            wait_s=wait_s,
        )

    async def delete(self, ref: str, *, project: str | None = None, wait_s: float = 0) -> AcceptedVolume:
        """Delete a volume."""
        return await self._transport.change(
            "DELETE", self.at(ref), AcceptedVolume, params=in_project(project), wait_s=wait_s
        )

    async def clone(
        self, ref: str, body: VolumeClone, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVolume:
        """Clone a volume or a snapshot of it."""
        return await self._transport.change(
            "POST", self.at(ref, "clone"), AcceptedVolume, body=body, params=in_project(project), wait_s=wait_s
        )

    async def restore(
        self, ref: str, snapshot: str, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVolume:
        """Put a volume back to a snapshot."""
        return await self._transport.change(
            "POST",
            self.at(ref, "restore"),
            AcceptedVolume,
            body=VolumeRestore(snapshot=snapshot),
            params=in_project(project),
            wait_s=wait_s,
        )

    async def snapshot(
        self, ref: str, body: SnapshotCreate, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVolume:
        """Take a snapshot of a volume."""
        return await self._transport.change(
            "POST", self.at(ref, "snapshots"), AcceptedVolume, body=body, params=in_project(project), wait_s=wait_s
        )

    async def snapshots(self, ref: str, query: Query = EVERYTHING) -> list[SnapshotOut]:
        """Return the snapshots of a volume."""
        below = Collection(self._transport, self.at(ref, "snapshots"), SnapshotOut, Page[SnapshotOut])
        return await below.all(query)

    async def update_snapshot(
        self, ref: str, snapshot: str, body: SnapshotUpdate, *, project: str | None = None
    ) -> SnapshotOut:
        """Protect a snapshot or not, and say when it expires."""
        path = self.at(ref, "snapshots", segment(snapshot))
        return await self._transport.change("PATCH", path, SnapshotOut, body=body, params=in_project(project))

    async def delete_snapshot(
        self, ref: str, snapshot: str, *, project: str | None = None, wait_s: float = 0
    ) -> AcceptedVolume:
        """Delete a snapshot."""
        path = self.at(ref, "snapshots", segment(snapshot))
        return await self._transport.change("DELETE", path, AcceptedVolume, params=in_project(project), wait_s=wait_s)

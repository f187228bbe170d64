"""What `rbd` and `ceph` say, as far as it is of use. Pure."""

from datetime import UTC, datetime

import msgspec

_TIME = "%a %b %d %H:%M:%S %Y"


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is a clone of."""

    image: str
    trash: bool = False
    """It is deleted, as far as clones allow."""


class Info(msgspec.Struct, frozen=True, kw_only=True):
    """`rbd info`."""

    size: int
    parent: Parent | None = None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One of `rbd snap ls`."""

    name: str
    size: int
    timestamp: str

    @property
    def taken_at(self) -> datetime:
        """When it was taken. The program runs in UTC."""
        return datetime.strptime(self.timestamp, _TIME).replace(tzinfo=UTC)


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """One of `rbd du`: an image, or a snapshot of one."""

    provisioned_size: int
    used_size: int
    snapshot: str = ""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """`rbd du` of one image."""

    images: tuple[Used, ...]


class Trashed(msgspec.Struct, frozen=True, kw_only=True):
    """One of `rbd trash ls`."""

    id: str
    name: str


class Watchers(msgspec.Struct, frozen=True, kw_only=True):
    """`rbd status`."""

    watchers: tuple[dict[str, object], ...]


class PoolStats(msgspec.Struct, frozen=True, kw_only=True):
    """How full a pool is. Copies are not counted."""

    stored: int
    max_avail: int


class PoolUsage(msgspec.Struct, frozen=True, kw_only=True):
    """One pool of `ceph df`."""

    name: str
    stats: PoolStats


class ClusterUsage(msgspec.Struct, frozen=True, kw_only=True):
    """`ceph df`."""

    pools: tuple[PoolUsage, ...]

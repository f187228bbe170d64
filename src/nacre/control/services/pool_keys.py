"""Keys to the clusters that pools are in: sealed at once, and opened only for the nodes that use the pools."""

from collections.abc import Collection

from nacre.control.auth.sealing import Sealer, needed
from nacre.control.store.pools import PoolRow
from nacre.model.ceph import CephAccess
from nacre.model.ids import PoolId

_PURPOSE = "pool key"


def sealed(pool: PoolId, key: str, sealer: Sealer | None) -> bytes:
    """Return a key as it is stored. Raises UnavailableError without a sealer."""
    return needed(sealer).seal(key.encode(), _purpose(pool))


def opened(among: Collection[PoolRow], sealer: Sealer | None) -> dict[PoolId, CephAccess]:
    """Return how nodes reach the clusters of these pools. Raises SealedError."""
    return {
        row.id: CephAccess(
            monitors=row.ceph.monitors,
            user=row.ceph.user,
            key=needed(sealer).open(row.sealed, _purpose(row.id)).decode(),
        )
        for row in among
        if row.ceph is not None and row.sealed is not None
    }


def _purpose(pool: PoolId) -> str:
    return f"{_PURPOSE} {pool}"

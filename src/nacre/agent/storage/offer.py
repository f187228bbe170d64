"""What volumes can do in each kind of pool. Pure. Used by the drivers of pools, and for the documentation."""

from nacre.model.volumes import CloneCost, DiskFormat, FormatCapabilities, PoolCapabilities

_AFTER = "by the file system, whatever the hypervisor: as after a power cut"
_NO_REFLINKS = "its file system has no reflinks (XFS and Btrfs do), so a copy takes too long for a guest to wait"

CEPH = PoolCapabilities(
    shared=True,
    snapshots=True,
    live_snapshots=True,
    clone=CloneCost.LAYERS,
    grow=True,
    live_grow=True,
    thin=True,
    formats=(
        FormatCapabilities(
            format=DiskFormat.RAW,
            clone=CloneCost.LAYERS,
            snapshot=CloneCost.LAYERS,
            live_snapshots=True,
            live_note="by the cluster",
        ),
    ),
)


def directory(*, shared: bool, reflinks: bool) -> PoolCapabilities:
    """Return what a folder can do, on a file system with reflinks or without."""
    copied = CloneCost.REFLINK if reflinks else CloneCost.COPY
    return PoolCapabilities(
        shared=shared,
        snapshots=True,
        live_snapshots=True,
        clone=CloneCost.LAYERS,
        reflink=reflinks,
        grow=True,
        live_grow=True,
        thin=True,
        formats=(
            FormatCapabilities(
                format=DiskFormat.QCOW2,
                clone=CloneCost.LAYERS,
                snapshot=CloneCost.LAYERS,
                live_snapshots=True,
                live_note="under QEMU, which goes on with another file",
            ),
            FormatCapabilities(
                format=DiskFormat.RAW,
                clone=copied,
                snapshot=copied,
                live_snapshots=reflinks,
                live_note=_AFTER if reflinks else _NO_REFLINKS,
            ),
        ),
    )

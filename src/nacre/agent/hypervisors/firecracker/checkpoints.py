"""A saved machine: two files of Firecracker's and one of ours that says what they are of. Used by `guest` and `driver`.

Firecracker's own files hold neither its version in a form that another one reads, nor disks. So what saved a machine is
on record beside them, and only the same version goes on with it. The file with the memory is not copied when a machine
is restored: it must not be changed while that machine lives (removing it does no harm).
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import folders, ids, releases
from nacre.agent.hypervisors.firecracker.config import SAVED_MEMORY, SAVED_STATE, Body, Placed, disk_path
from nacre.agent.hypervisors.firecracker.places import Places
from nacre.agent.hypervisors.firecracker.releases import Release, knows
from nacre.agent.hypervisors.launch import Disk, DiskFile, Launch, Nic, TapNic
from nacre.lib.files import sync_folder, write_atomically
from nacre.model.convergence import FailureClass

STATE = "state"
MEMORY = "memory"
MANIFEST = "manifest.json"

_KIND = "firecracker"
_SAVING = "saving"


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What was saved, by what."""

    hypervisor: str = _KIND
    version: str
    disks: tuple[str, ...] = ()
    """Our names, in the order of the devices."""
    nics: tuple[str, ...] = ()


def manifest(release: Release, drives: Mapping[str, object], nics: Mapping[str, object]) -> Manifest:
    """Describe a machine that is to be saved, by the ids of its devices."""
    return Manifest(
        version=releases.text(release),
        disks=tuple(ids.name(each) for each in drives),
        nics=tuple(ids.name(each) for each in nics),
    )


def read(directory: Path, release: Release) -> Manifest:
    """Read what was saved. Raises DriverError if this release cannot go on with it. Blocks."""
    try:
        found = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise DriverError(
            "checkpoint_unusable",
            "what was saved of the machine is not whole",
            hint="restore another checkpoint",
            failure_class=FailureClass.PERMANENT,
        ) from error
    if (found.hypervisor, found.version) != (_KIND, releases.text(release)):
        raise DriverError(
            "checkpoint_incompatible",
            f"the machine was saved by {found.hypervisor} {found.version}, and the node has Firecracker "
            f"{releases.text(release)}",
            hint="restore it on a node with the same version",
            failure_class=FailureClass.PERMANENT,
        )
    return found


def saving(places: Places, directory: Path) -> Body:
    """Return what Firecracker is told to save the machine. Blocks."""
    if places.jail is None:
        return _create(directory)
    with folders.held(places.work) as work:
        os.mkdir(_SAVING, 0o700, dir_fd=work)
        places.jail.give(work, _SAVING)
    return _create(Path(_SAVING))


def keep(places: Places, directory: Path, saved: Manifest) -> None:
    """Make what was written durable, and complete it. Blocks. Raises OSError."""
    if places.jail is not None:
        with folders.held(places.work, _SAVING) as written:
            for name in (STATE, MEMORY):
                folders.take(written, name, directory / name)
        with folders.held(places.work) as work:
            os.rmdir(_SAVING, dir_fd=work)
    with folders.held(directory) as ours:
        for name in (STATE, MEMORY):
            with folders.opened(ours, name) as file:
                os.fchmod(file, 0o600)
                os.fsync(file)
    write_atomically(directory / MANIFEST, msgspec.json.encode(saved))
    sync_folder(directory)


def placed(launch: Launch, directory: Path, saved: Manifest) -> list[Placed]:
    """Name the files that the restored machine knows: its disks under the names that they had. Raises DriverError."""
    files = [Placed(SAVED_STATE, directory / STATE), Placed(SAVED_MEMORY, directory / MEMORY)]
    for name, disk in _paired(saved.disks, launch.disks, "disks"):
        if not isinstance(disk, DiskFile):
            raise _unlike("disks")
        files.append(Placed(disk_path(name), disk.path, own=True))
    return files


def loading(launch: Launch, saved: Manifest, release: Release) -> Body:
    """Return what Firecracker is told to go on with. Raises DriverError."""
    body: dict[str, object] = {
        "snapshot_path": SAVED_STATE,
        "mem_backend": {"backend_type": "File", "backend_path": SAVED_MEMORY},
        "resume_vm": False,
    }
    taps: list[dict[str, str]] = []
    for name, nic in _paired(saved.nics, launch.nics, "NICs"):
        if not isinstance(nic, TapNic):
            raise _unlike("NICs")
        taps.append({"iface_id": ids.device(name), "host_dev_name": nic.device})
    if taps and knows(release, releases.OTHER_TAPS):
        body["network_overrides"] = taps
    if knows(release, releases.CLOCK):
        body["clock_realtime"] = True
    return body


def _create(directory: Path) -> Body:
    return {
        "snapshot_type": "Full",
        "snapshot_path": str(directory / STATE),
        "mem_file_path": str(directory / MEMORY),
    }


def _paired(names: tuple[str, ...], devices: tuple[Disk, ...] | tuple[Nic, ...], what: str) -> list[tuple[str, object]]:
    """Pair what was saved with what is there now: by name, or by place if the names are others."""
    if len(names) != len(devices):
        raise _unlike(what)
    by_name = {device.id: device for device in devices}
    if set(by_name) == set(names):
        return [(name, by_name[name]) for name in names]
    return list(zip(names, devices, strict=True))


def _unlike(what: str) -> DriverError:
    return DriverError(
        "checkpoint_unlike",
        f"the machine has other {what} than when it was saved",
        hint=f"give it as many {what} of the same kind as it had then",
        failure_class=FailureClass.PERMANENT,
    )

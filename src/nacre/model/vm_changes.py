"""What differs between a machine's configuration and what its process has, and what of it changes while it runs.

Called by the agent's planner and recipes, and by services that show machines: both come to the same answer. Pure.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import msgspec

from nacre.model.hardware import Balloon, DiskOptions, HotplugMethod
from nacre.model.ids import VolumeId
from nacre.model.vms import HaPolicy, InForce, NicSpec, RunInfo, VmSpec

RECLAIM = "memory.balloon.reclaim_bytes"
DISK_LIMITS = "root_disk.limits"
_LIVE_NIC = ("receive_limits", "send_limits")


@dataclass(frozen=True)
class Change:
    """A field that is to be changed."""

    field: str
    """Its path in the configuration: `memory.balloon.reclaim_bytes`, `nics[0].options.send_limits`."""
    live: bool
    """Whether it might be changed while the machine runs."""


def in_force(spec: VmSpec) -> InForce:
    """Return what a machine has that has just been started."""
    return InForce(
        least_cpus=spec.cpus,
        least_memory_bytes=spec.memory_bytes,
        disk_bytes=spec.disk_bytes,
        nics=spec.nics,
        cpu=spec.cpu,
        memory=spec.memory,
        numa=spec.numa,
        root_disk=spec.root_disk,
        limit_groups=spec.limit_groups,
        devices=spec.devices,
        boot=spec.boot,
    )


def seed_of(spec: VmSpec) -> str:
    """Return the digest of what a machine's cloud-init is given."""
    return "" if spec.cloud_init is None else spec.cloud_init.digest


def changes(spec: VmSpec, run: RunInfo | None) -> tuple[Change, ...]:
    """Return what differs. Nothing of a machine that does not run, which gets everything when it starts."""
    if run is None or run.exited_at is not None:
        return ()
    return tuple(_changes(spec, run))


def pending(spec: VmSpec, run: RunInfo | None) -> tuple[str, ...]:
    """Name the fields that are still to be changed while the machine runs."""
    refused = _refused(run)
    return tuple(change.field for change in changes(spec, run) if change.live and change.field not in refused)


def restart_required(spec: VmSpec, run: RunInfo | None, volumes: frozenset[VolumeId] | None = None) -> tuple[str, ...]:
    """Name the fields that take effect only when the machine is next started.

    `volumes` are those that are attached to it, None if that is not asked: `volumes` is named while others are open.
    """
    if run is None or run.exited_at is not None:
        return ()
    refused = _refused(run)
    found = [change.field for change in changes(spec, run) if not change.live or change.field in refused]
    if volumes is not None and volumes != frozenset(run.volumes):
        found.append("volumes")
    return tuple(found)


def applied(run: RunInfo, spec: VmSpec, field: str) -> RunInfo:
    """Return the run with `field` as `spec` has it."""
    if field in {"cpus", "memory_bytes"}:
        return msgspec.structs.replace(run, **{field: getattr(spec, field)})
    if run.config is None:
        return run
    return msgspec.structs.replace(
        run, config=msgspec.structs.replace(run.config, **_taken_over(run.config, spec, field))
    )


def refused(run: RunInfo, field: str) -> RunInfo:
    """Return the run with `field` as one that its hypervisor cannot change."""
    if run.config is None or field in run.config.refused:
        return run
    return msgspec.structs.replace(
        run, config=msgspec.structs.replace(run.config, refused=(*run.config.refused, field))
    )


def forgiven(run: RunInfo) -> RunInfo:
    """Return the run as one of which nothing is known that cannot be changed: a newer intent is a fresh try."""
    if run.config is None or not run.config.refused:
        return run
    return msgspec.structs.replace(run, config=msgspec.structs.replace(run.config, refused=()))


def unlike(spec: VmSpec, run: RunInfo) -> tuple[str, ...]:
    """Name the fields in which a machine is another one than it was in that life, so that it cannot go on from there.

    What of it changes while it runs is no obstacle, nor is what the guest knows nothing of.
    """
    alive = msgspec.structs.replace(run, exited_at=None)
    unseen = {"publish", "ha", "cloud_init"}
    return tuple(change.field for change in changes(spec, alive) if not change.live and change.field not in unseen)


def nic_index(field: str) -> int:
    """Return which NIC a field is of: 1 for `nics[1].options.send_limits`."""
    return int(field.partition("[")[2].partition("]")[0])


def _refused(run: RunInfo | None) -> tuple[str, ...]:
    return () if run is None or run.config is None else run.config.refused


def _changes(spec: VmSpec, run: RunInfo) -> Iterator[Change]:
    has = run.config
    if spec.cpus != run.cpus:
        yield Change("cpus", live=has is not None and has.least_cpus <= spec.cpus <= (has.cpu.max or has.least_cpus))
    if spec.memory_bytes != run.memory_bytes:
        yield Change("memory_bytes", live=has is not None and _can_have(spec.memory_bytes, run.memory_bytes, has))
    if spec.publish != run.publish:
        yield Change("publish", live=False)
    if seed_of(spec) != run.seed:
        yield Change("cloud_init", live=False)
    if spec.ha is HaPolicy.RESTART and not run.guarded:
        yield Change("ha", live=False)
    if has is None:
        return
    if spec.disk_bytes is not None and spec.disk_bytes != has.disk_bytes:
        yield Change("disk_bytes", live=True)
    yield from _fixed("cpu", spec.cpu, has.cpu)
    yield from _memory(spec, has)
    if spec.numa != has.numa:
        yield Change("numa", live=False)
    yield from _disk(spec.root_disk, has.root_disk)
    if spec.limit_groups != has.limit_groups:
        yield Change("limit_groups", live=False)
    yield from _fixed("devices", spec.devices, has.devices)
    yield from _fixed("boot", spec.boot, has.boot)
    yield from _nics(spec.nics, has.nics)


def _can_have(wanted: int, now: int, has: InForce) -> bool:
    """Whether a running machine might have so much memory. What was added as DIMMs stays."""
    least = now if has.memory.hotplug is HotplugMethod.ACPI else has.least_memory_bytes
    return least <= wanted <= (has.memory.max_bytes or has.least_memory_bytes)


def _memory(spec: VmSpec, has: InForce) -> Iterator[Change]:
    wanted, balloon = spec.memory.balloon, has.memory.balloon
    yield from _fixed("memory", spec.memory, has.memory, besides=("balloon",))
    if wanted is None or balloon is None:
        if wanted is not balloon:
            yield Change("memory.balloon", live=False)
        return
    yield from _balloon(wanted, balloon)


def _balloon(wanted: Balloon, has: Balloon) -> Iterator[Change]:
    if wanted.reclaim_bytes != has.reclaim_bytes:
        yield Change(RECLAIM, live=True)
    yield from _fixed("memory.balloon", wanted, has, besides=("reclaim_bytes",))


def _disk(wanted: DiskOptions, has: DiskOptions) -> Iterator[Change]:
    if wanted.limits != has.limits:
        yield Change(DISK_LIMITS, live=not (wanted.limit_group or has.limit_group))
    yield from _fixed("root_disk", wanted, has, besides=("limits",))


def _nics(wanted: tuple[NicSpec, ...], has: tuple[NicSpec, ...]) -> Iterator[Change]:
    if len(wanted) != len(has):
        yield Change("nics", live=False)
        return
    for index, (new, old) in enumerate(zip(wanted, has, strict=True)):
        field = f"nics[{index}]"
        yield from _fixed(field, new, old, besides=("options",))
        for name in _LIVE_NIC:
            if getattr(new.options, name) != getattr(old.options, name):
                yield Change(f"{field}.options.{name}", live=True)
        yield from _fixed(f"{field}.options", new.options, old.options, besides=_LIVE_NIC)


def _fixed(path: str, wanted: msgspec.Struct, has: msgspec.Struct, besides: Iterable[str] = ()) -> Iterator[Change]:
    """Yield the fields of a part that differ and cannot be changed while the machine runs."""
    for name in wanted.__struct_fields__:
        if name not in besides and getattr(wanted, name) != getattr(has, name):
            yield Change(f"{path}.{name}", live=False)


def _taken_over(has: InForce, spec: VmSpec, field: str) -> dict[str, object]:
    if field == "disk_bytes":
        return {"disk_bytes": spec.disk_bytes}
    if field == DISK_LIMITS:
        return {"root_disk": msgspec.structs.replace(has.root_disk, limits=spec.root_disk.limits)}
    if field == RECLAIM and has.memory.balloon is not None and spec.memory.balloon is not None:
        balloon = msgspec.structs.replace(has.memory.balloon, reclaim_bytes=spec.memory.balloon.reclaim_bytes)
        return {"memory": msgspec.structs.replace(has.memory, balloon=balloon)}
    if field.startswith("nics["):
        index, name = nic_index(field), field.rpartition(".")[2]
        old, new = has.nics[index], spec.nics[index]
        options = msgspec.structs.replace(old.options, **{name: getattr(new.options, name)})
        nic = msgspec.structs.replace(old, options=options)
        return {"nics": (*has.nics[:index], nic, *has.nics[index + 1 :])}
    raise ValueError(f"{field} is not changed while a machine runs")

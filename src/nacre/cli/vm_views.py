"""How machines look in tables and sentences. Pure."""

from collections.abc import Sequence
from ipaddress import ip_address

import msgspec

from nacre.cli.hardware import shown
from nacre.cli.output import Column, age, moment, pairs
from nacre.model.guests import GuestInfo, SeedRef
from nacre.model.hardware import NicOptions
from nacre.model.placement import Placement, Toleration
from nacre.model.units import format_size
from nacre.model.vms import PublishedPort, RunInfo, VmSpec
from nacre.schema.common import Accepted
from nacre.schema.vms import VmOut
from nacre.schema.volumes import AttachmentOut


def columns(*, with_project: bool) -> list[Column[VmOut]]:
    """Return the columns of `nacre vm list`."""
    project = [Column[VmOut]("PROJECT", lambda vm: vm.project.name)] if with_project else []
    return [
        Column("NAME", lambda vm: vm.name),
        *project,
        Column("PHASE", lambda vm: vm.phase.value),
        Column("NODE", lambda vm: vm.node.name if vm.node else "-"),
        Column("IMAGE", lambda vm: vm.image.name),
        Column("CPUS", lambda vm: str(vm.spec.cpus)),
        Column("MEMORY", lambda vm: format_size(vm.spec.memory_bytes)),
        Column("ADDRESS", lambda vm: ", ".join(reachable(vm.guest)[:2]) or "-"),
        Column("PORTS", lambda vm: ", ".join(port(p) for p in vm.spec.publish) or "-"),
        Column("AGE", lambda vm: age(vm.created_at)),
        Column("NOTE", note),
    ]


def note(vm: VmOut) -> str:
    """Say how far a machine is from what was asked; empty when it is there."""
    if vm.conditions.degraded is not None:
        return f"{vm.conditions.degraded.code}: {vm.conditions.degraded.message}"
    if not vm.conditions.converged:
        return f"to be {vm.desired}"
    return f"restart for {', '.join(vm.restart_required)}" if vm.restart_required else ""


def outcome(done: Accepted[VmOut], waited: bool) -> str:
    """Say what came of a change."""
    vm, operation = done.resource, done.operation
    if not waited:
        return f"{vm.name}: {operation.type} accepted (operation {operation.id})"
    if operation.type == "vm.delete":
        return f"{vm.name}: deleted"
    restart = f"; restart it for {', '.join(vm.restart_required)}" if vm.restart_required else ""
    return f"{vm.name}: {vm.phase}{restart}"


def facts(vm: VmOut, volumes: Sequence[AttachmentOut] = ()) -> Sequence[tuple[str, str]]:
    """Return everything about a machine and the volumes that it has, for `nacre vm show`."""
    spec, failure = vm.spec, vm.conditions.degraded
    return [
        ("name", vm.name),
        ("id", vm.id),
        ("project", vm.project.name),
        ("labels", pairs(vm.labels)),
        ("phase", f"{vm.phase} for {age(vm.since)}"),
        ("desired", vm.desired.value),
        ("converged", "yes" if vm.conditions.converged else "no"),
        ("problem", f"{failure.message} ({failure.code}, {failure.failure_class})" if failure else ""),
        ("hint", failure.hint if failure else ""),
        ("next try", moment(failure.next_try_at) if failure else ""),
        ("node", vm.node.name if vm.node else "not placed yet"),
        ("decision", vm.decision),
        ("placement", "\n".join(wishes(spec.placement))),
        ("ha", spec.ha.value),
        ("fence", str(vm.fence) if vm.fence else ""),
        ("priority", f"{spec.priority}{', may be stopped to make room' if spec.preemptible else ''}"),
        ("image", vm.image.name),
        ("template", str(vm.template or "")),
        ("instance type", str(vm.instance_type or "")),
        ("hypervisor", f"{spec.hypervisor}, {spec.machine}"),
        ("cpus", str(spec.cpus)),
        ("memory", format_size(spec.memory_bytes)),
        ("disk", format_size(spec.disk_bytes) if spec.disk_bytes is not None else "as the image"),
        ("volumes", "\n".join(_volume(one) for one in volumes)),
        ("nics", "\n".join(nics(vm))),
        ("kernel args", spec.kernel_args),
        ("options", "\n".join(options(spec))),
        ("ports", "\n".join(port(p) for p in spec.publish)),
        ("cloud-init", _seed(spec.cloud_init)),
        *(_guest(vm.guest) if vm.guest else ()),
        ("restart", f"{spec.restart}, {spec.stop_timeout_s:g} s to stop"),
        ("checkpoints", str(vm.checkpoints) if vm.checkpoints else ""),
        ("needs restart", ", ".join(vm.restart_required)),
        *(_run(vm.run) if vm.run else ()),
        ("generation", f"{vm.conditions.generation}, node has seen {vm.conditions.observed_generation}"),
        ("created", moment(vm.created_at)),
        ("changed", moment(vm.updated_at)),
    ]


def nics(vm: VmOut) -> list[str]:
    """Return the NICs of a machine, a line each: how it is connected, its MAC, and the addresses that it has."""
    lines: list[str] = []
    for index, nic in enumerate(vm.spec.nics):
        found = [one for one in (vm.guest.addresses if vm.guest else ()) if one.nic == f"nic{index}"]
        mac = nic.mac or next((one.mac for one in found if one.mac), "")
        parts = [str(nic.network), f"mac {mac}" if mac else "", *(f"{one.address}/{one.prefix}" for one in found)]
        lines.append(f"nic{index}: {', '.join(part for part in parts if part)}")
    return lines


def _volume(one: AttachmentOut) -> str:
    parts = [
        "read-only" if one.read_only else "",
        "leaving" if one.leaving else "" if one.open else "not open",
        "deleted with the machine" if one.delete_with_vm else "",
    ]
    return ", ".join([f"{one.volume.name} (serial {one.serial})", *filter(None, parts)])


def options(spec: VmSpec) -> list[str]:
    """Return everything of a machine's hardware that is not as usual, a line each, as `--set` takes it."""
    parts = ("cpu", "memory", "numa", "root_disk", "limit_groups", "devices", "boot")
    lines = [line for name in parts for line in shown(msgspec.to_builtins(getattr(spec, name)), name)]
    usual = NicOptions()
    for index, nic in enumerate(spec.nics):
        if nic.options != usual:
            lines += shown(msgspec.to_builtins(nic.options), f"nics[{index}].options")
    return lines


def wishes(asked: Placement) -> list[str]:
    """Return what a machine asks of its place, a line each; nothing for one that goes anywhere."""
    terms = [("near", term) for term in asked.affinity] + [("apart from", term) for term in asked.anti_affinity]
    lines = [
        ("labels", pairs(asked.node_labels)),
        ("zones", ", ".join(asked.zones)),
        ("regions", ", ".join(asked.regions)),
        ("tolerates", ", ".join(_toleration(one) for one in asked.tolerations)),
        *(("rather", f"{pairs(one.labels)} ({one.weight})") for one in asked.prefer),
        *((word, f"{pairs(one.labels)} by {one.topology}{_force(required=one.required)}") for word, one in terms),
        *(
            ("spread", f"{pairs(one.labels)} over {one.topology}s, skew {one.max_skew}{_force(required=one.required)}")
            for one in asked.spread
        ),
        ("strategy", asked.strategy.value if asked.strategy is not None else ""),
    ]
    return [f"{word} {text}" for word, text in lines if text]


def _force(*, required: bool) -> str:
    return "" if required else " (preferred)"


def _toleration(one: Toleration) -> str:
    value = "" if one.value is None else f"={one.value}"
    return f"{one.key}{value}" + ("" if one.effect is None else f":{one.effect}")


def port(published: PublishedPort) -> str:
    """Return a published port as it is written."""
    address = f"[{published.host_address}]" if ":" in published.host_address else published.host_address
    suffix = "/udp" if published.protocol.value == "udp" else ""
    return f"{address}:{published.host_port}:{published.guest_port}{suffix}"


def reachable(guest: GuestInfo | None) -> list[str]:
    """Return the addresses of a guest that others can reach, those of its NICs first."""
    if guest is None:
        return []
    found = [one for one in guest.addresses if not ip_address(one.address).is_link_local]
    return [one.address for one in sorted(found, key=lambda one: not one.nic)]


def _seed(given: SeedRef | None) -> str:
    return "" if given is None else f"{', '.join(given.parts)} ({given.digest[:12]})"


def _guest(guest: GuestInfo) -> Sequence[tuple[str, str]]:
    silent = "" if guest.answering else ", does not answer now"
    return [
        ("hostname", guest.hostname),
        ("addresses", "\n".join(f"{one.address}/{one.prefix} on {one.interface}" for one in guest.addresses)),
        ("os", f"{guest.os}, kernel {guest.kernel}" if guest.os else ""),
        ("booted", moment(guest.booted_at)),
        ("guest agent", f"{guest.agent_version}{silent}"),
    ]


def _run(run: RunInfo) -> Sequence[tuple[str, str]]:
    reason = f" ({run.accelerator_reason})" if run.accelerator_reason else ""
    exit_reason = f"{run.exit_reason} {run.exit_detail}".strip() if run.exit_reason else ""
    return [
        ("accelerator", f"{run.accelerator}{reason}"),
        ("started", moment(run.started_at)),
        ("ended", moment(run.exited_at)),
        ("because", exit_reason),
    ]

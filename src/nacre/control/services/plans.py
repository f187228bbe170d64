"""Plans: what would become of machines if they were created now. Reads only; the deciding is the placer's own."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nacre.control.auth import policy
from nacre.control.auth.principals import PLATFORM, Caller
from nacre.control.scheduler.explain import summary
from nacre.control.scheduler.packing import Packing, pack
from nacre.control.scheduler.placement import place
from nacre.control.scheduler.snapshot import Fleet, Request
from nacre.control.services import capabilities, fleet, image_lookup, projects, vm_room, vm_sources
from nacre.control.services.scheduling import shown_to
from nacre.control.services.vm_advice import advice
from nacre.control.services.vm_creation import disk_of, roles_of, spec_of
from nacre.control.services.vm_layers import names_of
from nacre.control.store.db import Read
from nacre.errors import InvalidInputError, NacreError
from nacre.model.ids import ProjectId, VmId
from nacre.model.metadata import check_labels
from nacre.model.placement import Decision
from nacre.model.vm_checks import check_spec
from nacre.model.vms import HaPolicy, VmSpec
from nacre.schema.scheduling import MAX_PLANNED, PlanBody, PlanItem, PlannedVm, PlanOut, PlanTotals
from nacre.schema.vms import NodeRef


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One machine and what became of it."""

    request: Request
    decision: Decision


async def plan(rd: Read, caller: Caller, body: PlanBody, *, random: Callable[[], float]) -> PlanOut:
    """Say where each machine would go, counting in those before it. Raises what creating them would raise."""
    number = sum(item.count for item in body.machines)
    if number > MAX_PLANNED:
        raise InvalidInputError(
            "plan_too_large", f"{number} machines, at most {MAX_PLANNED}", hint="plan fewer at once", field="machines"
        )
    requests: list[Request] = []
    for index, item in enumerate(body.machines):
        requests += await _requests(rd, caller, item, f"machines[{index}]", len(requests))
    everything = await fleet.load(rd)
    order = None if body.order is None else Packing(body.order)
    planned = await asyncio.to_thread(_decide, requests, everything, order, random)
    return _out(caller, planned, everything)


async def _requests(rd: Read, caller: Caller, item: PlanItem, path: str, number: int) -> list[Request]:
    """What the machines of one item ask for. Their ids sort in the order of the plan and exist nowhere else."""
    try:
        project = await projects.require(rd, caller, item.project)
        names = names_of(item.name, item.count, item.first_number)
        asked = await vm_sources.asked(rd, caller, item, project.id)
        labels = check_labels(asked.config.labels)
        image = await image_lookup.usable(rd, caller, asked.image, project.id)
        spec = check_spec(spec_of(asked.config, image))
        await capabilities.admit(rd, caller, spec, [artifact.role for artifact in image.artifacts])
    except NacreError as error:
        error.field = path if error.field is None else f"{path}.{error.field}"
        raise
    return [
        _request(
            VmId(f"plan-{number + offset:06}"),
            project.id,
            name,
            labels,
            spec,
            spec.disk_bytes or disk_of(image),
            roles_of(image),
        )
        for offset, name in enumerate(names)
    ]


def _request(
    vm: VmId, project: ProjectId, name: str, labels: dict[str, str], spec: VmSpec, disk_bytes: int, roles: str
) -> Request:
    return Request(
        vm=vm,
        project=project,
        name=name,
        labels=labels,
        cpus=spec.cpus,
        memory_bytes=spec.memory_bytes,
        disk_bytes=disk_bytes,
        hypervisor=spec.hypervisor,
        machine=spec.machine,
        publish=spec.publish,
        placement=spec.placement,
        ha=spec.ha is HaPolicy.RESTART,
        priority=spec.priority,
        preemptible=spec.preemptible,
        needs=vm_room.needed(spec, roles),
    )


def _decide(
    requests: Sequence[Request], everything: Fleet, order: Packing | None, random: Callable[[], float]
) -> list[Planned]:
    """Return what becomes of each machine, in the order in which they were given."""
    if order is not None:
        decisions = pack(requests, everything, order=order, random=random)
        return [Planned(request=one, decision=two) for one, two in zip(requests, decisions, strict=True)]
    decided: dict[VmId, Decision] = {}
    for request in sorted(requests, key=lambda one: -one.priority):
        decision = decided[request.vm] = place(request, everything, random=random)
        if decision.node is not None:
            everything.take(decision.node, request)
    return [Planned(request=request, decision=decided[request.vm]) for request in requests]


def _out(caller: Caller, planned: Sequence[Planned], everything: Fleet) -> PlanOut:
    names = policy.allowed(caller, PLATFORM, "node:view")
    shown: list[PlannedVm] = []
    for one in planned:
        request, decision = one.request, one.decision
        code, sentence = summary(decision)
        node = decision.node
        shown.append(
            PlannedVm(
                name=request.name,
                fits=node is not None,
                node=NodeRef(id=node, name=everything.room(node).name) if names and node is not None else None,
                cpus=request.cpus,
                memory_bytes=request.memory_bytes,
                disk_bytes=request.disk_bytes,
                code=code,
                summary=sentence,
                hint=advice(decision),
                decision=shown_to(caller, decision),
            )
        )
    requests = [one.request for one in planned]
    totals = PlanTotals(
        machines=len(planned),
        fitting=sum(one.decision.node is not None for one in planned),
        cpus=sum(request.cpus for request in requests),
        memory_bytes=sum(request.memory_bytes for request in requests),
        disk_bytes=sum(request.disk_bytes for request in requests),
        nodes=len({one.decision.node for one in planned} - {None}),
    )
    return PlanOut(machines=shown, totals=totals)

"""/v1/scheduler, /v1/plan, /v1/rebalance and why a machine is where it is."""

import random

from litestar import Response, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from nacre.control.api.calls import TheCall
from nacre.control.api.queries import InProject
from nacre.control.services import plans, rebalancing, scheduling
from nacre.schema.scheduling import (
    ExplanationOut,
    PlanBody,
    PlanOut,
    RebalanceBody,
    RebalanceOut,
    SchedulerOut,
    SchedulerUpdate,
)


@get("/v1/scheduler", opt={"action": "scheduler:view"})
async def show_scheduler(call: TheCall) -> Response[SchedulerOut]:
    """Show how the platform places machines."""
    return await call.show(scheduling.show)


@patch("/v1/scheduler", opt={"action": "scheduler:update", "if_match": True})
async def update_scheduler(call: TheCall, data: JSONBody[SchedulerUpdate]) -> Response[SchedulerOut]:
    """Change how the platform places machines. Those that have a node stay there."""
    return await call.change(
        lambda tx, caller: scheduling.update(tx, caller, data, if_match=call.if_match), SchedulerOut
    )


@get("/v1/vms/{vm:str}/explanation", opt={"action": "vm:view"})
async def explain_vm(call: TheCall, vm: FromPath[str], params: NamedDependency[InProject]) -> Response[ExplanationOut]:
    """Say why a machine is where it is; for one that waits, why no node can take it now."""
    return await call.read(
        lambda rd, caller: scheduling.explain(rd, caller, vm, project=params.project, random=random.random)
    )


@post("/v1/plan", opt={"action": "vm:plan"}, status_code=200)
async def plan_vms(call: TheCall, data: JSONBody[PlanBody]) -> Response[PlanOut]:
    """Say what would become of machines if they were created now. Changes nothing."""
    return await call.read(lambda rd, caller: plans.plan(rd, caller, data, random=random.random))


@post("/v1/rebalance", opt={"action": "scheduler:rebalance"}, status_code=200)
async def rebalance_nodes(call: TheCall, data: JSONBody[RebalanceBody | None] = None) -> Response[RebalanceOut]:
    """Move machines so that the load of nodes becomes more even, or with `dry_run` say which would be moved."""
    body = data or RebalanceBody()
    if body.dry_run:
        return await call.read(lambda rd, caller: rebalancing.preview(rd, caller, body))
    return await call.change(lambda tx, caller: rebalancing.rebalance(tx, caller, body), RebalanceOut)


ROUTES = (show_scheduler, update_scheduler, explain_vm, plan_vms, rebalance_nodes)

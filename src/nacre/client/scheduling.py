"""The scheduler through the API: its policy, plans, explanations and rebalancing."""

from nacre.client.collection import in_project, segment
from nacre.client.transport import Transport
from nacre.schema.scheduling import (
    ExplanationOut,
    PlanBody,
    PlanOut,
    RebalanceBody,
    RebalanceOut,
    SchedulerOut,
    SchedulerUpdate,
)


class Scheduler:
    """`/v1/scheduler` and what belongs to it."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def show(self) -> SchedulerOut:
        """Return how machines are placed."""
        return await self._transport.read("/v1/scheduler", SchedulerOut)

    async def update(self, changes: SchedulerUpdate, *, if_match: str | None = None) -> SchedulerOut:
        """Change how machines are placed; `if_match` makes it fail if that has changed meanwhile."""
        return await self._transport.change("PATCH", "/v1/scheduler", SchedulerOut, body=changes, if_match=if_match)

    async def explain(self, vm: str, *, project: str | None = None) -> ExplanationOut:
        """Say why a machine is where it is, or nowhere yet."""
        path = f"/v1/vms/{segment(vm)}/explanation"
        return await self._transport.read(path, ExplanationOut, params=in_project(project))

    async def plan(self, body: PlanBody) -> PlanOut:
        """Say what would become of machines if they were created now. Changes nothing."""
        return await self._transport.change("POST", "/v1/plan", PlanOut, body=body)

    async def rebalance(self, body: RebalanceBody) -> RebalanceOut:
        """Move machines so that the load of nodes becomes more even, or only propose it."""
        return await self._transport.change("POST", "/v1/rebalance", RebalanceOut, body=body)

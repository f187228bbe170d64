"""A model of HA restart on one thread of simulated time: hosts with agents and guards, a network, a control plane.

What decides on the side of the control plane is the real code (`failover_rules`, `Counts`, `standings`, `Bucket`,
`node_changes.seen`) on real rows. Transactions are instants; everything between two of them, and between any
two steps of an agent or a guard, takes time, in which anything may happen. Every clock has a speed of its own.

The monitor sees all hosts at once: a second copy of a machine that runs unfrozen is a violation the moment it does.
`Rules` has a switch for each rule of the design, so that tests can show that none of them is idle.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from nacre.control.services import failover, failover_rules
from nacre.control.services.failover import Picture, Terms
from nacre.control.store.node_leases import LeaseRow, RestartableRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.ids import ImageId, NodeId, ProjectId, VmId
from nacre.model.nodes import LOST, NodeState
from nacre.model.vms import Desired, HaPolicy, Phase, VmSpec
from support.ha_control import Replica
from support.ha_hosts import Agent, Host
from support.ha_model import LEASE_S, Pace, Rules

START = datetime(2030, 1, 1, tzinfo=UTC)
SPEC = VmSpec(image=ImageId("img-1"), ha=HaPolicy.RESTART)


@dataclass
class World:
    """Everything, and the only true time."""

    seed: int
    rules: Rules = field(default_factory=Rules)
    pace: Pace = field(default_factory=Pace)
    node_count: int = 4
    vm_count: int = 6
    drift: float = failover_rules.DRIFT
    terms: Terms = field(default_factory=lambda: Terms(lease_s=LEASE_S, per_s=1.0, max_share=0.5))

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.now = 0.0
        self.steps = 0
        self.given_up = 0
        self.taken = 0
        self.violations: list[str] = []
        self.database_away = False
        self.loss = 0.0
        self.slow = 0.0
        self.copies: list[tuple[NodeId, VmId, int]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._running: dict[VmId, set[NodeId]] = {}
        self._held: list[Callable[[], None]] = []
        self._arrivals: dict[NodeId, float] = {}
        self.nodes = {node: _node(node) for node in (NodeId(f"node-{n}") for n in range(self.node_count))}
        self.vms = {vm: _vm(vm) for vm in (VmId(f"vm-{n}") for n in range(self.vm_count))}
        self.replicas = [Replica(self, self._drift()) for _ in range(2)]
        self.hosts = {node: Host(self, node, self._drift()) for node in self.nodes}

    def _drift(self) -> float:
        return self.random.choice([-self.drift, self.drift, self.random.uniform(-self.drift, self.drift)])

    # Time

    def wall(self) -> datetime:
        return START + timedelta(seconds=self.now)

    def after(self, seconds: float, work: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, work))

    def run(self, seconds: float) -> None:
        """Let this time pass, or stop at the first violation."""
        end = self.now + seconds
        while self._events[0][0] <= end and not self.violations:
            self.now, _, work = heapq.heappop(self._events)
            self.steps += 1
            work()
        self.now = max(self.now, end) if not self.violations else self.now

    # The network

    def message(self, host: Host, arrive: Callable[[], None]) -> None:
        """Carry one message to or from a host: after a while, much later, or never."""
        if self.random.random() < self.loss:
            return
        delay = self.random.uniform(0.001, 0.05)
        if self.random.random() < self.slow:
            delay += self.random.choice([1.0, 4.0, 20.0, 45.0]) * self.random.random()
        if host.cut:
            if self.random.random() < 0.5:
                return
            self._held.append(lambda: self.after(delay, arrive))
            return
        self.after(delay, arrive)

    def heal_network(self, host: Host) -> None:
        """Messages that were held back come now: TCP has kept them."""
        host.cut = False
        held, self._held = self._held, []
        for arrive in held:
            arrive()

    # The monitor

    def ran(self, vm: VmId, host: Host) -> None:
        running = self._running.setdefault(vm, set())
        if running - {host.node}:
            self.violations.append(f"{self.now:.3f}: {vm} begins to run on {host.node} and runs on {sorted(running)}")
        running.add(host.node)

    def stopped(self, vm: VmId, host: Host) -> None:
        self._running.get(vm, set()).discard(host.node)

    @property
    def running(self) -> dict[VmId, NodeId]:
        return {vm: next(iter(nodes)) for vm, nodes in self._running.items() if nodes}

    # The database

    def picture(self) -> Picture:
        lost = {node for node, row in self.nodes.items() if row.state in LOST}
        waiting = [vm for vm in self.vms.values() if vm.node in lost and failover_rules.guarded(vm)]
        return Picture(
            watched=[_lease_row(row) for row in self.nodes.values()],
            heard=sum(1 for row in self.nodes.values() if row.state in failover.AT_WORK),
            waiting=[_restartable(vm) for vm in sorted(waiting, key=lambda vm: (-vm.priority, vm.id))],
        )

    # The end

    def heal(self) -> None:
        """Everything works again."""
        self.database_away, self.loss, self.slow = False, 0.0, 0.0
        for replica in self.replicas:
            if replica.down:
                replica.restart()
            replica.go_on()
        for host in self.hosts.values():
            self.heal_network(host)
            host.wake()
            if host.off:
                host.power_on()
            elif not host.agent.alive:
                host.agent = Agent(host)
            host.agent.go_on()

    def converged(self) -> list[str]:
        """What is not as it should be."""
        wrong = [f"{node} is {row.state}" for node, row in self.nodes.items() if row.state is not NodeState.READY]
        running = self.running
        return wrong + [
            f"{vm.id} belongs to {vm.node} and runs on {running.get(vm.id)}"
            for vm in self.vms.values()
            if vm.node is None or running.get(vm.id) != vm.node
        ]


def _node(node: NodeId) -> NodeRow:
    return NodeRow(
        id=node,
        name=node,
        state=NodeState.READY,
        labels={},
        own_labels={},
        region="",
        zone="",
        key_fingerprint=node,
        last_seen_at=START,
        created_at=START,
        updated_at=START,
    )


def _vm(vm: VmId) -> VmRow:
    return VmRow(
        id=vm,
        project=ProjectId("prj-1"),
        name=vm,
        labels={},
        spec=SPEC,
        image=SPEC.image,
        image_name="tiny",
        desired=Desired.RUNNING,
        generation=1,
        finalizers=[],
        ha_since=1,
        reserved_cpus=1,
        reserved_memory_bytes=1,
        reserved_disk_bytes=1,
        phase=Phase.PENDING,
        since=START,
        created_at=START,
        updated_at=START,
    )


def _lease_row(row: NodeRow) -> LeaseRow:
    return LeaseRow(
        id=row.id,
        name=row.name,
        state=row.state,
        tenure=row.tenure,
        renewals=row.renewals,
        lease_s=row.lease_s,
        last_seen_at=row.last_seen_at,
    )


def _restartable(vm: VmRow) -> RestartableRow:
    assert vm.node is not None
    return RestartableRow(
        id=vm.id,
        name=vm.name,
        project=vm.project,
        node=vm.node,
        priority=vm.priority,
        ha_since=vm.ha_since,
        observed_generation=vm.observed_generation,
        run=vm.run,
        created_at=vm.created_at,
    )

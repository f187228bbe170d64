"""Replicas of the control plane in the model of HA restart. What they decide is decided by the real code."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from nacre.control.reconcilers.failover_counts import Bucket, Counts
from nacre.control.services import failover, failover_rules
from nacre.control.services.failover import Picture, Watching
from nacre.control.services.node_changes import seen
from nacre.control.store.node_leases import LeaseRow, RestartableRow
from nacre.model.ids import NodeId
from nacre.model.nodes import NodeState
from support.ha_model import LEASE_S, OFFLINE_S, Clock, Told

if TYPE_CHECKING:
    from support.ha_world import World


class Replica:
    """One process of the control plane: a gateway, a watch, a placer and a failover reconciler."""

    def __init__(self, world: "World", drift: float) -> None:
        self.world = world
        self.clock = Clock(world, drift)
        self.down = False
        self.stalled = False
        self._backlog: deque[Callable[[], None]] = deque()
        self.restart()
        world.after(world.random.uniform(0, 1), self._round)
        world.after(world.random.uniform(0, 1), self._watch)

    def restart(self) -> None:
        """Forget what is not in the database."""
        self.down = self.stalled = False
        self._backlog.clear()
        self.counts = Counts(0.2 * LEASE_S)
        self.bucket = Bucket(self.world.terms.per_s)
        self.quiet: dict[NodeId, tuple[datetime | None, float]] = {}
        self.life = self.world.random.random()

    def go_on(self) -> None:
        self.stalled = False
        backlog, self._backlog = list(self._backlog), deque()
        for work in backlog:
            self.world.after(self.world.random.uniform(0, 0.1), lambda w=work: self.do(w))

    def do(self, work: Callable[[], None]) -> None:
        """A step of this process."""
        if self.down:
            return
        if self.stalled:
            self._backlog.append(work)
        else:
            work()

    def _then(self, seconds: float, work: Callable[[], None]) -> None:
        life = self.life
        self.world.after(seconds, lambda: self.do(lambda: work() if life == self.life else None))

    # The gateway

    def heard(self, node: NodeId, answer: Callable[[], None] = lambda: None) -> None:
        if self.world.database_away:
            return
        self.world.nodes[node] = seen(self.world.nodes[node], self.world.wall())
        answer()

    def pulled(self, node: NodeId, answer: Callable[[Told], None]) -> None:
        if self.world.database_away:
            return
        told = Told(
            tenure=self.world.nodes[node].tenure,
            vms={vm.id: vm.fence for vm in self.world.vms.values() if vm.node == node},
            retired={vm: fence for at, vm, fence in self.world.copies if at == node},
        )
        self._then(self.world.random.uniform(0, 0.05), lambda: answer(told))

    def renew(self, node: NodeId, tenure: int, answer: Callable[[bool], None]) -> None:
        """Stored after a while, answered after that."""

        def store() -> None:
            if self.world.database_away:
                return
            row, rules = self.world.nodes[node], self.world.rules
            granted = row.tenure == tenure or not rules.granted_for_the_tenure_only
            if granted and row.state is NodeState.FAILED and rules.a_grant_ends_being_given_up:
                row = seen(row, self.world.wall())
            if granted:
                longest = max(row.lease_s, LEASE_S)
                self.world.nodes[node] = replace(row, renewals=row.renewals + 1, lease_s=longest)
            self._then(self.world.random.uniform(0, 0.05), lambda: answer(granted))

        self._then(self.world.random.uniform(0, 0.05), store)

    # The reconcilers

    def _watch(self) -> None:
        """Nodes that are not heard are offline; machines without a node get one."""
        self.world.after(self.world.random.uniform(0.5, 1.5) * self.world.pace.place_s, self._watch)
        self.do(self._look_around)

    def _look_around(self) -> None:
        if self.world.database_away:
            return
        now = self.clock.now()
        for node, row in self.world.nodes.items():
            last, since = self.quiet.get(node, (None, now))
            if row.state not in failover.AT_WORK or last != row.last_seen_at:
                self.quiet[node] = (row.last_seen_at, now)
            elif now - since >= OFFLINE_S:
                self.world.nodes[node] = replace(row, state=NodeState.OFFLINE)
        ready = [node for node, row in self.world.nodes.items() if row.state is NodeState.READY]
        for vm in [vm for vm in self.world.vms.values() if vm.node is None] if ready else ():
            node = self.world.random.choice(ready)
            self.world.vms[vm.id] = replace(vm, node=node, fence=vm.fence + 1)
            self.world.hosts[node].agent.rung()

    def _round(self) -> None:
        self.world.after(self.world.random.uniform(0.5, 1.5) * self.world.pace.round_s, self._round)
        self.do(self._read)

    def _read(self) -> None:
        """Begin to read; what was read is there a moment later, and taken in a moment after that."""
        began = self.clock.now()
        self._then(self.world.random.uniform(0, self.world.pace.read_s), lambda: self._snapshot(began))

    def _snapshot(self, began: float) -> None:
        if self.world.database_away:
            self.counts.restart()
            return
        picture = self.world.picture()
        self._then(self.world.random.uniform(0, 0.1), lambda: self._decide(picture, began))

    def _decide(self, picture: Picture, began: float) -> None:
        now = self.clock.now()
        self.counts.note(picture.watched, now if self.world.rules.counted_after_reading else began)
        watching = Watching(terms=self.world.terms, silence=lambda row: self.counts.silence(row, now))
        for one in failover.standings(picture, watching):
            due = failover.is_due(one)
            if not self.world.rules.margin:
                due = one.node.state is NodeState.OFFLINE and one.silent_s >= max(one.node.lease_s, LEASE_S)
            if due and not failover.in_mass_loss(one, self.world.terms):
                self._then(
                    self.world.random.uniform(0, self.world.pace.act_s), lambda node=one.node: self._give_up(node)
                )
        self.bucket.fill(now)
        given_up = {node.id for node in picture.watched if node.state is NodeState.FAILED}
        for vm in picture.waiting:
            if vm.node in given_up and self.bucket.take():
                self._then(self.world.random.uniform(0, self.world.pace.act_s), lambda v=vm: self._take(v))

    def _give_up(self, counted: LeaseRow) -> None:
        if self.world.database_away:
            return
        row = self.world.nodes[counted.id]
        may = failover_rules.may_give_up(row, counted.tenure, counted.renewals)
        if not self.world.rules.renewals_checked_when_giving_up:
            may = row.state is NodeState.OFFLINE
        if may:
            self.world.nodes[row.id] = failover_rules.given_up(row)
            self.world.given_up += 1

    def _take(self, counted: RestartableRow) -> None:
        if self.world.database_away:
            return
        vm, node = self.world.vms[counted.id], self.world.nodes[counted.node]
        may = failover_rules.may_take(node, vm)
        if not self.world.rules.taken_only_while_given_up:
            may = vm.node == node.id
        if not may:
            return
        if self.world.rules.taking_ends_the_tenure:
            self.world.nodes[node.id] = failover_rules.taken_from(node)
        self.world.copies.append((node.id, vm.id, vm.fence))
        self.world.vms[vm.id] = replace(vm, node=None, generation=vm.generation + 1)
        self.world.taken += 1

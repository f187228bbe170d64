"""Hosts of the model of HA restart: disks, guards, guests, and agents that may be stopped between any two steps."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nacre.model.ids import NodeId, VmId
from support.ha_model import HEARTBEAT_S, LEASE_S, RENEW_S, RESYNC_S, Clock, Told

if TYPE_CHECKING:
    from support.ha_control import Replica
    from support.ha_world import World

LEAST_LEFT_S = 2.0
"""A guard starts nothing with less than this left of its lease."""
REACTION_S = 0.02
"""How late a guard may be that freezes its guest."""


@dataclass
class Life:
    """One hypervisor process and its guard."""

    fence: int
    frozen: bool = False
    gone: bool = False


class Host:
    """A node: its disk, its guards and guests, and its agent."""

    def __init__(self, world: "World", node: NodeId, drift: float) -> None:
        self.world = world
        self.node = node
        self.clock = Clock(world, drift)
        self.cut = False
        self.off = False
        self.asleep = False
        self.disk: Told | None = None
        self.leases: dict[VmId, float] = {}
        self.lives: dict[VmId, Life] = {}
        self.agent = Agent(self)

    # Guests

    def run(self, vm: VmId, fence: int) -> None:
        """A guard has started: it looks at the lease once more and becomes the guest."""
        if self.off or vm in self.lives:
            return
        left = self.leases.get(vm, 0.0) - self.clock.now()
        if self.world.rules.guards_check_before_starting and left < LEAST_LEFT_S:
            return
        self.lives[vm] = Life(fence)
        self.world.ran(vm, self)
        self._guard(vm, self.lives[vm])

    def kill(self, vm: VmId) -> None:
        life = self.lives.pop(vm, None)
        if life is not None:
            life.gone = True
            self.world.stopped(vm, self)

    def write_lease(self, vm: VmId, deadline: float) -> None:
        self.leases[vm] = deadline
        life = self.lives.get(vm)
        if life is not None:
            self.world.after(self.world.random.uniform(0, 0.1), lambda: self._look(vm, life))

    def _guard(self, vm: VmId, life: Life) -> None:
        wait = self.clock.until(self.leases.get(vm, 0.0)) + self.world.random.uniform(0, REACTION_S)
        self.world.after(wait, lambda: self._look(vm, life))

    def _look(self, vm: VmId, life: Life) -> None:
        """What a guard does whenever it wakes."""
        if life.gone or self.asleep:
            return
        over = self.leases.get(vm, 0.0) <= self.clock.now() and self.world.rules.guards_freeze
        if over and not life.frozen:
            life.frozen = True
            self.world.stopped(vm, self)
        elif not over and life.frozen:
            life.frozen = False
            self.world.ran(vm, self)
        if not over:
            self._guard(vm, life)

    # What happens to hosts

    def power_off(self) -> None:
        self.off, self.asleep = True, False
        self.agent.kill()
        self.leases.clear()
        for vm in list(self.lives):
            self.kill(vm)

    def power_on(self) -> None:
        if self.off:
            self.off = False
            self.agent = Agent(self)

    def sleep(self) -> None:
        """Everything on it stands still, guests and guards too."""
        if self.off or self.asleep:
            return
        self.asleep = True
        self.agent.pause()
        for vm, life in self.lives.items():
            if not life.frozen:
                self.world.stopped(vm, self)

    def wake(self) -> None:
        """The guards' timers have rung while it slept; they are served before the guests."""
        if not self.asleep:
            return
        self.asleep = False
        for vm, life in list(self.lives.items()):
            if not life.frozen:
                life.frozen = True
                self._look(vm, life)
        self.agent.go_on()


class Agent:
    """One process of the agent on a host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.world = host.world
        self.alive = True
        self.paused = False
        self.replica = self.world.random.choice(self.world.replicas)
        self.link = 0
        self._backlog: deque[Callable[[], None]] = deque()
        self._asked: dict[int, float] = {}
        self._sequence = 0
        self._heard_at = host.clock.now()
        self._then(self.world.random.uniform(0, 1), self._connect)
        for period, work in ((RENEW_S, self._renew), (HEARTBEAT_S, self._beat), (RESYNC_S, self._pull)):
            self._then(self.world.random.uniform(0, period), lambda p=period, w=work: self._every(p, w))

    def kill(self) -> None:
        self.alive = False

    def pause(self) -> None:
        self.paused = True

    def go_on(self) -> None:
        """What has come meanwhile, and the timers that have rung, in any order."""
        if not self.paused or self.host.asleep:
            return
        self.paused = False
        backlog, self._backlog = list(self._backlog), deque()
        self.world.random.shuffle(backlog)
        for work in backlog:
            self.world.after(self.world.random.uniform(0, 0.2), lambda w=work: self._do(w))

    def _do(self, work: Callable[[], None]) -> None:
        """A step of this process: now, when it is allowed to go on, or never."""
        if not self.alive:
            return
        if self.paused:
            self._backlog.append(work)
        else:
            work()

    def _then(self, seconds: float, work: Callable[[], None]) -> None:
        self.world.after(seconds, lambda: self._do(work))

    def _every(self, period: float, work: Callable[[], None]) -> None:
        work()
        self._then(self.host.clock.until(self.host.clock.now() + period), lambda: self._every(period, work))

    # To the control plane

    def _send(self, work: Callable[["Replica"], None]) -> None:
        replica = self.replica
        self.world.message(self.host, lambda: replica.do(lambda: work(replica)))

    def _answered(self, link: int, work: Callable[[], None]) -> Callable[[], None]:
        def arrived() -> None:
            if link == self.link:
                self._heard_at = self.host.clock.now()
                work()

        return lambda: self._do(arrived)

    def _connect(self) -> None:
        self.link += 1
        self.replica = self.world.random.choice(self.world.replicas)
        self._heard_at = self.host.clock.now()
        node, pull = self.host.node, self._answered(self.link, self._pull)
        self._send(lambda replica: replica.heard(node, lambda: self.world.message(self.host, pull)))

    def _beat(self) -> None:
        if self.host.clock.now() - self._heard_at > 2 * HEARTBEAT_S:
            self._connect()
            return
        node = self.host.node
        late = self.world.random.uniform(0, self.world.pace.beat_s)
        self.world.after(late, lambda: self._send(lambda replica: replica.heard(node)))

    def _pull(self) -> None:
        node, link = self.host.node, self.link

        def answer(told: Told) -> None:
            self.world.message(self.host, self._answered(link, lambda: self._obey(told)))

        self._send(lambda replica: replica.pulled(node, answer))

    def rung(self) -> None:
        """The control plane says that something may have changed."""
        self.world.message(self.host, self._answered(self.link, self._pull))

    def _renew(self) -> None:
        told = self.host.disk
        if told is None or not told.vms:
            return
        self._sequence += 1
        sequence, link, node, tenure = self._sequence, self.link, self.host.node, told.tenure
        self._asked[sequence] = self.host.clock.now()

        def answer(granted: bool) -> None:
            self.world.message(self.host, self._answered(link, lambda: self._renewed(sequence, granted)))

        # Between reading the clock and sending it may be stopped for any time.
        self._then(
            self.world.random.uniform(0, 0.01),
            lambda: self._send(lambda replica: replica.renew(node, tenure, answer)),
        )

    # From the control plane

    def _obey(self, told: Told) -> None:
        """On the disk first; what has moved away is killed after that, and what is new needs a lease."""
        new = told.vms.keys() - (self.host.disk.vms.keys() if self.host.disk is not None else set())
        self.host.disk = told
        if new:
            self._renew()
        for vm, fence in told.retired.items():
            life = self.host.lives.get(vm)
            if life is not None and life.fence <= fence:
                self._then(self.world.random.uniform(0, 1), lambda v=vm, one=life: self._retire(v, one))

    def _retire(self, vm: VmId, life: Life) -> None:
        if self.host.lives.get(vm) is life:
            self.host.kill(vm)

    def _renewed(self, sequence: int, granted: bool) -> None:
        asked_at = self._asked.pop(sequence, None)
        if not granted or asked_at is None:
            self._pull()
            return
        begins = asked_at if self.world.rules.lease_runs_from_asking else self.host.clock.now()
        told = self.host.disk
        for vm, fence in told.vms.items() if told is not None else ():
            delay = self.world.random.uniform(0, 0.05)
            self._then(delay, lambda v=vm, f=fence: self._hold(v, f, begins + LEASE_S))

    def _hold(self, vm: VmId, fence: int, deadline: float) -> None:
        """Write the lease of one machine, and start it if it is not there."""
        told, life = self.host.disk, self.host.lives.get(vm)
        if told is None or told.vms.get(vm) != fence:
            return
        if life is not None and life.fence != fence:
            self._retire(vm, life)
            return
        self.host.write_lease(vm, deadline)
        if life is None:
            self._then(self.world.random.uniform(0, self.world.pace.start_s), lambda: self._start(vm, fence))

    def _start(self, vm: VmId, fence: int) -> None:
        if self.host.disk is not None and self.host.disk.vms.get(vm) == fence:
            # From here on it is another process that goes on, whatever becomes of this one.
            self._then(self.world.random.uniform(0, 0.1), lambda: self.host.run(vm, fence))

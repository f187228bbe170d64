"""The machines of one simulated node: the real planner decides, and what it asks for takes time and may fail.

Stands in for the executor and the recipes. No processes, no files, no tasks: a machine is a few values and at most one
timer, so that tens of thousands fit. A node's machines end with the simulation, as in a power cut.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import msgspec

from nacre.agent import planner
from nacre.agent.failures import fenced
from nacre.agent.planner import NOT_VOID, Known, Step
from nacre.agent.simulation.keeping import Keeping
from nacre.agent.vms.presence import Presence
from nacre.lib.backoff import Backoff
from nacre.lib.clock import Clock
from nacre.model.convergence import Failure, FailureClass
from nacre.model.copies import CopyObserved
from nacre.model.ids import RunId, VmId, make_id
from nacre.model.vm_changes import applied, in_force, pending, seed_of
from nacre.model.vms import Desired, ExitReason, HaPolicy, Phase, RunInfo, VmIntent, VmObserved
from nacre.protocol.messages import HeldVm, NodeIntent

_STOP_SHARE = 0.25
"""How long a stop takes, compared with a start."""
_LEASE_S = 0.5
"""How soon a machine that waits for a lease is looked at again."""
_PRESENT = {
    Presence.STARTING: Phase.STARTING,
    Presence.RUNNING: Phase.RUNNING,
    Presence.PAUSED: Phase.PAUSED,
}


@dataclass(frozen=True, kw_only=True)
class Physics:
    """How simulated machines behave."""

    boot_s: float
    """On average; each start takes from half to one and a half times as long."""
    failure_rate: float
    """Which share of starts fails."""
    random: Callable[[], float]


@dataclass(kw_only=True)
class Machine:
    """One machine."""

    id: VmId
    found_at: datetime
    failures: Backoff
    intent: VmIntent | None = None
    presence: Presence = Presence.NONE
    deleted: bool = False
    reboot_nonce: int = 0
    reset_nonce: int = 0
    run: RunInfo | None = None
    ended_under: int = 0
    failure: Failure | None = None
    retry_at: float = 0.0
    keeping: Keeping = field(default_factory=Keeping)
    frozen: bool = False
    doing: Step | None = None
    shown: tuple[Phase, datetime] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_guarded(self) -> bool:
        """Whether it runs, and only for as long as its node has a lease."""
        return self.presence is not Presence.NONE and self.run is not None and self.run.guarded

    def wait(self, timer: asyncio.TimerHandle | None) -> None:
        """Have this timer and no other."""
        if self.timer is not None:
            self.timer.cancel()
        self.timer = timer


class Machines:
    """All machines of one simulated node."""

    def __init__(
        self,
        physics: Physics,
        clock: Clock,
        *,
        told: Callable[[VmObserved], None],
        forgotten: Callable[[VmId], None],
        leased: Callable[[], bool] = lambda: True,
    ) -> None:
        """`told` hears of every change, `forgotten` of machines that are no more.

        `leased` says whether the node has a lease now, without which a machine that needs one stands still.
        """
        self._leased = leased
        self._physics = physics
        self._clock = clock
        self._told = told
        self._forgotten = forgotten
        self._machines: dict[VmId, Machine] = {}
        self._intent: NodeIntent | None = None
        self._wanted: dict[VmId, VmIntent] = {}
        self._refused: frozenset[VmId] = frozenset()
        self._voids: dict[VmId, planner.Void] = {}

    def want(self, intent: NodeIntent) -> None:
        """Work towards this desired state from now on."""
        wanted, voids = planner.wanted(intent), planner.voids(intent)
        refused = planner.refused(intent, self._known()) if self._machines else frozenset[VmId]()
        changed = {vm for vm in wanted.keys() | self._wanted.keys() if wanted.get(vm) != self._wanted.get(vm)}
        changed |= refused ^ self._refused
        changed |= {vm for vm in voids.keys() | self._voids.keys() if voids.get(vm) != self._voids.get(vm)}
        if self._intent is None:
            changed |= self._machines.keys()
        self._intent, self._wanted, self._refused, self._voids = intent, wanted, refused, voids
        for vm in sorted(changed):
            machine, retiring = self._machines.get(vm), self._is_retiring(vm)
            doing = machine.doing if machine is not None else None
            if machine is not None and doing and planner.interrupts(doing, wanted.get(vm), retiring=retiring):
                self._abandon(machine)
            self._look(vm)

    def look_at_lease(self) -> None:
        """Have machines that need a lease stand still or go on, as the node's lease is now."""
        for machine in list(self._machines.values()):
            frozen = not self._leased()
            if machine.is_guarded and frozen is not machine.frozen:
                machine.frozen = frozen
                generation = machine.intent.generation if machine.intent is not None else 0
                machine.failure = fenced(generation=generation, at=self._clock.now()) if frozen else None
                self._look(machine.id)

    def power_off(self) -> None:
        """Lose every machine, as in a power cut."""
        for machine in self._machines.values():
            machine.wait(None)
        self._machines.clear()
        self._intent, self._wanted, self._refused, self._voids = None, {}, frozenset(), {}

    @property
    def refused(self) -> frozenset[VmId]:
        """Machines that were to be torn down, too many at once."""
        return self._refused

    @property
    def running(self) -> list[RunInfo]:
        """The lives that there are now."""
        alive = (machine.run for machine in self._machines.values() if machine.presence is not Presence.NONE)
        return [run for run in alive if run is not None]

    def held(self) -> tuple[HeldVm, ...]:
        """Machines that are here and that the desired state does not name."""
        if not self._machines:
            return ()
        here = (self._machines[vm] for vm in planner.held(self._intent, self._known()))
        return tuple(
            HeldVm(
                id=machine.id,
                name=machine.intent.name if machine.intent is not None else "",
                running=machine.presence is not Presence.NONE,
                since=machine.found_at,
            )
            for machine in here
        )

    def copies(self) -> tuple[CopyObserved, ...]:
        """Of what was to be let go of, nothing is left: there are no disks here."""
        if self._intent is None:
            return ()
        told = (*self._intent.retired, *self._intent.discard)
        here = {vm: machine.intent.fence for vm, machine in self._machines.items() if machine.intent is not None}
        gone = {(ref.id, ref.fence) for ref in told if here.get(ref.id, ref.fence + 1) > ref.fence}
        return tuple(CopyObserved(id=vm, fence=fence, exists=False) for vm, fence in sorted(gone))

    # One machine

    def _look(self, vm: VmId) -> None:
        """Begin what is to be done next, unless something is being done."""
        while True:
            machine = self._machines.get(vm)
            if machine is not None and machine.doing is not None:
                return
            step = planner.decide(
                self._wanted.get(vm),
                _known(machine) if machine is not None else None,
                self._clock.monotonic(),
                synced=self._intent is not None,
                refused=vm in self._refused,
                void=self._voids.get(vm, NOT_VOID),
            )
            if isinstance(step, planner.Nothing):
                break
            if machine is None:
                machine = self._make(vm)
            if not self._begin(machine, step):
                break
        if machine is not None:
            self._tell(machine)

    def _begin(self, machine: Machine, step: Step) -> bool:
        """Carry out a step or begin one that takes time. Says whether to look again at once."""
        if isinstance(step, planner.RetryAt | planner.Start | planner.Stop | planner.Reboot):
            self._begin_slowly(machine, step)
            return False
        match step:
            case planner.Accept(intent=intent):
                if machine.intent is None:
                    machine.reboot_nonce, machine.reset_nonce = intent.reboot_nonce, intent.reset_nonce
                    machine.keeping.first(intent)
                machine.intent, machine.deleted = intent, False
                machine.failure, machine.retry_at = None, 0.0
                machine.failures.reset()
            case planner.Pause() | planner.Resume():
                machine.presence = Presence.PAUSED if isinstance(step, planner.Pause) else Presence.RUNNING
            case planner.Change(intent=intent) if machine.run is not None:
                for field in pending(intent.spec, machine.run):
                    machine.run = applied(machine.run, intent.spec, field)
            case planner.Reset(nonce=nonce):
                machine.reset_nonce = nonce
            case planner.RecordNonces(reboot=reboot, reset=reset):
                machine.reboot_nonce, machine.reset_nonce = reboot, reset
            case planner.TakeCheckpoint() | planner.DropCheckpoint():
                machine.keeping.keep(step, machine.intent, self._clock.now(), alive=_is_alive(machine))
            case planner.PutBack() | planner.Delete():
                self._end(machine, ExitReason.KILLED)
                machine.deleted = isinstance(step, planner.Delete)
                machine.keeping.put_back(step)
            case planner.Forget() | planner.Retire():
                machine.wait(None)
                del self._machines[machine.id]
                self._forgotten(machine.id)
            case _:
                return False
        return True

    def _begin_slowly(
        self, machine: Machine, step: planner.RetryAt | planner.Start | planner.Stop | planner.Reboot
    ) -> None:
        match step:
            case planner.RetryAt(at=at):
                self._later(machine, at - self._clock.monotonic(), self._look)
            case planner.Start(intent=intent) if intent.spec.ha is HaPolicy.RESTART and not self._leased():
                self._later(machine, _LEASE_S, self._look)
            case planner.Start():
                self._take_time(machine, step, self._physics.boot_s, Presence.STARTING)
            case planner.Stop() | planner.Reboot():
                self._take_time(machine, step, self._physics.boot_s * _STOP_SHARE, machine.presence)

    def _is_retiring(self, vm: VmId) -> bool:
        machine = self._machines.get(vm)
        here = _known(machine) if machine is not None else None
        return planner.to_retire(self._wanted.get(vm), here, self._voids.get(vm, NOT_VOID)) is not None

    def _take_time(self, machine: Machine, step: Step, seconds: float, meanwhile: Presence) -> None:
        machine.doing, machine.presence = step, meanwhile
        self._later(machine, seconds * (0.5 + self._physics.random()), self._finish)

    def _later(self, machine: Machine, seconds: float, then: Callable[[VmId], None]) -> None:
        machine.wait(asyncio.get_running_loop().call_later(max(0.0, seconds), then, machine.id))

    def _finish(self, vm: VmId) -> None:
        """What took time has ended, one way or another."""
        machine = self._machines[vm]
        step, machine.doing = machine.doing, None
        match step:
            case planner.Start(intent=intent):
                self._started(machine, intent)
            case planner.Stop(force=force):
                self._end(machine, ExitReason.KILLED if force else ExitReason.STOPPED)
            case planner.Reboot(intent=intent):
                self._end(machine, ExitReason.STOPPED)
            case _:
                pass
        self._look(vm)

    def _abandon(self, machine: Machine) -> None:
        """Leave off what is being done: a newer intent wants something else."""
        if isinstance(machine.doing, planner.Start):
            machine.presence = Presence.NONE
        machine.doing = None
        machine.wait(None)

    def _started(self, machine: Machine, intent: VmIntent) -> None:
        if self._physics.random() < self._physics.failure_rate:
            self._failed(machine)
            return
        now = self._clock.now()
        machine.presence = Presence.RUNNING
        machine.failure = None
        machine.failures.reset()
        machine.reboot_nonce, machine.reset_nonce = intent.reboot_nonce, intent.reset_nonce
        machine.run = RunInfo(
            id=RunId(make_id("run", now, secrets.token_bytes(10))),
            started_at=now,
            accelerator="none",
            accelerator_reason="the node is simulated",
            cpus=intent.spec.cpus,
            memory_bytes=intent.spec.memory_bytes,
            publish=intent.spec.publish,
            guarded=intent.spec.ha is HaPolicy.RESTART,
            config=in_force(intent.spec),
            seed=seed_of(intent.spec),
        )

    def _failed(self, machine: Machine) -> None:
        machine.presence = Presence.NONE
        delay = machine.failures.next()
        now = self._clock.now()
        machine.retry_at = self._clock.monotonic() + delay
        machine.failure = Failure(
            failure_class=FailureClass.TRANSIENT,
            code="simulated_failure",
            message="the simulated machine did not start",
            hint="it is tried again by itself; the simulation was told to let some starts fail",
            generation=machine.intent.generation if machine.intent is not None else 0,
            at=machine.failure.at if machine.failure is not None else now,
            attempts=machine.failures.attempts,
            next_try_at=now + timedelta(seconds=delay),
        )

    def _end(self, machine: Machine, reason: ExitReason) -> None:
        machine.presence, machine.frozen = Presence.NONE, False
        run = machine.run
        if run is not None and run.exited_at is None:
            machine.run = msgspec.structs.replace(run, exited_at=self._clock.now(), exit_reason=reason)
            machine.ended_under = machine.intent.generation if machine.intent is not None else 0

    def _make(self, vm: VmId) -> Machine:
        backoff = Backoff(first=0.5, cap=60.0, random=self._physics.random)
        machine = self._machines[vm] = Machine(id=vm, found_at=self._clock.now(), failures=backoff)
        return machine

    def _known(self) -> dict[VmId, Known]:
        return {vm: _known(machine) for vm, machine in self._machines.items()}

    def _tell(self, machine: Machine) -> None:
        if machine.intent is None or machine.id not in self._machines:
            return
        phase = _phase(machine)
        if machine.shown is None or machine.shown[0] is not phase:
            machine.shown = (phase, self._clock.now())
        self._told(
            VmObserved(
                id=machine.id,
                generation=machine.intent.generation,
                phase=phase,
                since=machine.shown[1],
                run=machine.run,
                reboot_nonce=machine.reboot_nonce,
                reset_nonce=machine.reset_nonce,
                failure=machine.failure,
                fence=machine.intent.fence,
                restore_nonce=machine.keeping.restore_nonce,
                checkpoints=machine.keeping.observed(),
            )
        )


def _is_alive(machine: Machine) -> bool:
    return machine.presence is not Presence.NONE


def _known(machine: Machine) -> Known:
    run = machine.run
    return Known(
        intent=machine.intent,
        presence=machine.presence,
        deleted=machine.deleted,
        reboot_nonce=machine.reboot_nonce,
        reset_nonce=machine.reset_nonce,
        exit_reason=run.exit_reason if run is not None else None,
        ended_under=machine.ended_under,
        failure=machine.failure.failure_class if machine.failure is not None else None,
        retry_at=machine.retry_at,
        frozen=machine.frozen,
        run=run,
        held=machine.keeping.held(),
    )


def _phase(machine: Machine) -> Phase:
    if machine.deleted:
        return Phase.ABSENT
    if isinstance(machine.doing, planner.Stop | planner.Reboot):
        return Phase.STOPPING
    if machine.presence in _PRESENT:
        return _PRESENT[machine.presence]
    wanted = machine.intent is not None and machine.intent.desired in {Desired.RUNNING, Desired.PAUSED}
    return Phase.PREPARING if wanted and machine.run is None else Phase.STOPPED

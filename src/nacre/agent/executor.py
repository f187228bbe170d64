"""Carry out the plan: a lane per machine, one step at a time, and look again after each. Wired by `main`.

Holds every machine of the node. Deciding is the planner's, doing is the recipes'; here they meet, and failures become
facts. Losing the control plane changes nothing here.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import structlog

from nacre.agent import acting, outcomes, planner
from nacre.agent.attendance import Attendance
from nacre.agent.consoles import Consoles
from nacre.agent.crossings import Crossings, Gate
from nacre.agent.hypervisors.base import Guest
from nacre.agent.hypervisors.launch import DiskFile
from nacre.agent.keeping import found_again, keep, load
from nacre.agent.planner import NOT_VOID, Step, Void
from nacre.agent.records import Record
from nacre.agent.standing import held, known, waits_for_lease
from nacre.agent.steps import Await, Recall, Receive, Recollect, Reject, Send
from nacre.agent.vms.adopt import adopt
from nacre.agent.vms.copies import Copies
from nacre.agent.vms.delete import delete
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.migrate import Lines
from nacre.agent.vms.plug import plug
from nacre.agent.vms.presence import Presence
from nacre.agent.vms.retire import clear, retire
from nacre.agent.vms.start import start
from nacre.agent.vms.stop import stop
from nacre.agent.volume_users import held_still, lend, release_waiting, user_of
from nacre.errors import NacreError
from nacre.lib.lanes import Lanes
from nacre.lib.threads import in_thread
from nacre.model.arrivals import VmArrival
from nacre.model.consistency import Consistency
from nacre.model.copies import CopyObserved, CopyRef
from nacre.model.ids import ImageId, VmId, VolumeId
from nacre.model.vms import VmIntent, VmObserved
from nacre.protocol.messages import HeldVm, NodeIntent

log = structlog.get_logger()

ADOPTION_S = 5.0


class Executor:
    """All machines of one node."""

    def __init__(
        self,
        host: Host,
        consoles: Consoles,
        *,
        lines: Lines,
        gate: Gate,
        told: Callable[[VmObserved], None],
        forgotten: Callable[[VmId], None],
        counted: Callable[[str, str], None] = lambda _step, _outcome: None,
        copied: Callable[[], None] = lambda: None,
    ) -> None:
        """`told` hears of changes, `forgotten` of machines that are no more, `counted` of steps, `copied` of copies."""
        self._host = host
        self._consoles = consoles
        self._told = told
        self._forgotten = forgotten
        self._counted = counted
        self._machines: dict[VmId, Machine] = {}
        self._doing: dict[VmId, Step] = {}
        self._intent: NodeIntent | None = None
        self._copied = copied
        self._copies = Copies(host)
        self._wanted: dict[VmId, VmIntent] = {}
        self._voids: dict[VmId, Void] = {}
        self._refused: frozenset[VmId] = frozenset()
        self._lanes: Lanes[VmId] = Lanes(self._work, random=host.random)
        self._attendance = Attendance(host, consoles, self._lanes.ring)
        self._arrivals: dict[VmId, VmArrival] = {}
        look, attend = self._lanes.ring, self._attendance.take
        self._crossings = Crossings(host, lines=lines, gate=gate, look=look, attend=attend, counted=counted)

    async def begin(self) -> None:
        """Read the records, look for every guest, and return when all are found or not there (or take too long)."""
        await in_thread(self._host.cgroups.sweep)
        await in_thread(self._copies.load)
        records = await in_thread(self._records)
        self._host.machines.mkdir(mode=0o700, exist_ok=True)
        await self._host.roots.sweep()
        for place in self._host.machines.iterdir():
            vm = VmId(place.name)
            records.setdefault(vm, Record(id=vm, found_at=self._host.clock.now()))
        for record in records.values():
            machine = self._make(record)
            await load(machine, self._host)
            if self._host.users is not None:
                self._host.users.remember(record.id, record.user)
            if record.deleted:
                machine.presence = Presence.NONE
            self._lanes.ring(record.id)
        deadline = asyncio.get_running_loop().time() + ADOPTION_S
        while any(machine.presence is Presence.UNKNOWN for machine in self._machines.values()):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.01)
        for machine in self._machines.values():
            machine.tell()

    def want(self, intent: NodeIntent) -> None:
        """Work towards this desired state from now on."""
        wanted, voids = planner.wanted(intent), planner.voids(intent)
        refused = planner.refused(intent, {vm: known(machine) for vm, machine in self._machines.items()})
        if refused and refused != self._refused:
            log.error("teardown.refused", machines=len(refused), next="an operator has to allow it")
        changed = {vm for vm in wanted.keys() | self._wanted.keys() if wanted.get(vm) != self._wanted.get(vm)}
        if self._intent is None:
            changed |= self._machines.keys()
        changed |= {vm for vm in voids.keys() | self._voids.keys() if voids.get(vm) != self._voids.get(vm)}
        changed |= refused ^ self._refused
        arrivals, before = planner.arrivals(intent), self._arrivals
        changed |= {vm for vm in arrivals.keys() | before.keys() if arrivals.get(vm) != before.get(vm)}
        self._intent, self._wanted, self._refused, self._voids = intent, wanted, refused, voids
        self._arrivals = arrivals
        for vm in changed:
            if self._is_interrupted(vm):
                self._lanes.interrupt(vm)
            else:
                self._lanes.ring(vm)

    def look_again(self) -> None:
        """Look at every machine although nothing rang."""
        for vm in self._machines.keys() | self._wanted.keys() | self._voids.keys() | self._arrivals.keys():
            self._lanes.ring(vm)

    @property
    def refused(self) -> frozenset[VmId]:
        """Machines that were to be torn down, too many at once."""
        return self._refused

    def held(self) -> tuple[HeldVm, ...]:
        """Machines that are here and that the desired state does not name."""
        here = planner.held(self._intent, {vm: known(machine) for vm, machine in self._machines.items()})
        return tuple(held(self._machines[vm]) for vm in here)

    def leased(self, vm: VmId) -> None:
        """A machine has a lease that it may have waited for."""
        machine = self._machines.get(vm)
        if machine is not None and waits_for_lease(machine):
            machine.retry_at = 0.0
            self._lanes.ring(vm)

    def layers_freed(self, vm: VmId) -> None:
        """Nobody reads layers of a machine any more that are not its own: perhaps some can be merged now."""
        machine = self._machines.get(vm)
        if machine is not None:
            machine.checkpoints.mergeable = True
            self._lanes.ring(vm)

    def user_of(self, volume: VolumeId) -> Guest | None:
        """See `volume_executor.Users`."""
        return user_of(self._machines.values(), volume)

    async def lend(self, volume: VolumeId, disk: DiskFile) -> None:
        """Let the process that has a volume open use another file of it. Raises OSError."""
        await lend(self._machines.values(), volume, disk, self._host)

    def held_still(self, volume: VolumeId) -> AbstractAsyncContextManager[Consistency]:
        """See `volume_executor.Users`."""
        return held_still(self._machines.values(), volume)

    def volume_ready(self, volume: VolumeId) -> None:
        """A machine may have waited for this volume."""
        for vm in release_waiting(self._machines.values(), volume):
            self._lanes.ring(vm)

    def copies(self) -> tuple[CopyObserved, ...]:
        """What there is of machines that have moved away, and of which of those that were told of there is nothing."""
        told = () if self._intent is None else (*self._intent.retired, *self._intent.discard)
        refs = {CopyRef(id=each.id, fence=each.fence) for each in told if not self._is_retiring(each.id)}
        return self._copies.observed(sorted(refs, key=lambda ref: (ref.id, ref.fence)))

    @property
    def guards(self) -> int:
        """How many guests have a guard."""
        return self._attendance.guards

    @property
    def frozen(self) -> int:
        """How many guests are held still by their guards."""
        return sum(machine.frozen for machine in self._machines.values())

    def needed_images(self) -> frozenset[ImageId] | None:
        """Images under disks of machines and copies, or named by the desired state. None if that cannot be known."""
        images = set(self._intent.images) if self._intent is not None else set[ImageId]()
        under_copies = self._copies.images()
        if under_copies is None:
            return None
        images |= set(under_copies)
        for machine in self._machines.values():
            if machine.record.deleted:
                continue
            if machine.record.intent is None:
                return None
            images.add(machine.record.intent.image.id)
        return frozenset(images)

    @property
    def machines(self) -> Mapping[VmId, Machine]:
        """Every machine that is here."""
        return self._machines

    async def close(self) -> None:
        """Stop working and let go of every guest. They run on."""
        await self._lanes.close()
        await self._crossings.close()
        await self._attendance.close()

    # A lane

    async def _work(self, vm: VmId) -> None:
        """Do what is to be done for one machine until there is nothing left but to wait."""
        while True:
            step = self._next(vm)
            machine = self._machines.get(vm)
            if isinstance(step, planner.Nothing | planner.RetryAt):
                await self._settle(vm, machine, step)
                return
            if isinstance(step, planner.Discard):
                await self._discard(vm, step.fence)
                continue
            if machine is None:
                machine = self._make(Record(id=vm, found_at=self._host.clock.now()))
                machine.presence = Presence.NONE
            await self._carry_out(machine, step)

    def _next(self, vm: VmId) -> Step:
        return planner.decide(
            self._wanted.get(vm),
            known(self._machines[vm]) if vm in self._machines else None,
            self._host.clock.monotonic(),
            synced=self._intent is not None,
            refused=vm in self._refused,
            void=self._voids.get(vm, NOT_VOID),
            copies=self._copies.fences(vm),
            arrival=self._arrivals.get(vm),
        )

    def _is_interrupted(self, vm: VmId) -> bool:
        """Whether what is being done to a machine is not to be finished first."""
        doing = self._doing.get(vm)
        if doing is None:
            return False
        machine, retiring = self._machines[vm], self._is_retiring(vm)
        alive = machine.presence is not Presence.NONE
        return planner.interrupts(doing, self._wanted.get(vm), retiring=retiring, waiting=machine.waits, alive=alive)

    def _is_retiring(self, vm: VmId) -> bool:
        """Whether there is something of a placement here that has ended."""
        here = known(self._machines[vm]) if vm in self._machines else None
        return planner.to_retire(self._wanted.get(vm), here, self._voids.get(vm, NOT_VOID)) is not None

    def _records(self) -> dict[VmId, Record]:
        """Read the records, without those of machines that had just become copies when the agent ended."""
        self._host.records.sweep()
        records = self._host.records.load_all()
        for vm, record in list(records.items()):
            if record.fence in self._copies.fences(vm) and not self._host.place(vm).exists():
                clear(vm, record.fence, self._host)
                del records[vm]
        return records

    async def _settle(self, vm: VmId, machine: Machine | None, step: planner.Nothing | planner.RetryAt) -> None:
        if isinstance(step, planner.RetryAt):
            self._lanes.ring_later(vm, max(0.0, step.at - self._host.clock.monotonic()))
        if machine is None:
            return
        if isinstance(step, planner.Nothing):
            acting.past(machine)
            if machine.presence is Presence.NONE:
                self._consoles.end(vm)
        machine.tell()
        if machine.record.intent is not None:
            await machine.flush()

    async def _carry_out(self, machine: Machine, step: Step) -> None:
        name = step.__class__.__name__.lower()
        self._doing[machine.id] = step
        try:
            await self._do(machine, step)
        except (NacreError, OSError) as error:
            outcomes.failed(machine, step, error, self._host)
            self._counted(name, "failed")
        else:
            outcomes.succeeded(machine, step)
            self._counted(name, "done")
        finally:
            del self._doing[machine.id]
            machine.leave()

    async def _do(self, machine: Machine, step: Step) -> None:
        match step:
            case planner.Accept(intent=intent):
                await self._crossings.landed(machine)
                acting.accept(machine, intent)
            case planner.Adopt() | planner.Start():
                await self._begin(machine, step)
            case planner.Stop(intent=intent) | planner.Reboot(intent=intent):
                force = isinstance(step, planner.Stop) and step.force
                await stop(machine, timeout_s=intent.spec.stop_timeout_s, force=force, host=self._host)
            case planner.Plug(intent=intent):
                await plug(machine, intent, self._host)
            case planner.Delete() | planner.Retire() | planner.Forget() | Reject():
                await self._let_go(machine, step)
            case planner.RecordNonces(reboot=reboot_nonce, reset=reset_nonce):
                machine.note(reboot_nonce=reboot_nonce, reset_nonce=reset_nonce)
            case planner.Pause() | planner.Resume() | planner.Reset() | planner.Change():
                await acting.press(machine, step, self._host)
            case planner.TakeCheckpoint() | planner.DropCheckpoint() | planner.PutBack() | planner.MergeLayers():
                await keep(machine, step, self._host)
            case Send() | Recollect() | Recall() | Await() | Receive():
                await self._crossings.carry_out(machine, step)
            case planner.Nothing() | planner.RetryAt() | planner.Discard():
                pass

    async def _begin(self, machine: Machine, step: planner.Adopt | planner.Start) -> None:
        match step:
            case planner.Adopt():
                found = await adopt(machine, self._host)
                if found is not None:
                    await self._attendance.take(machine, found)
                    log.info("vm.adopted", vm=machine.id, pid=found.handle.pid)
                else:
                    await in_thread(self._host.cgroups.remove, machine.id)
            case planner.Start(intent=intent):
                await found_again(machine, self._host)
                begun = await start(machine, intent, self._host)
                await self._attendance.take(machine, begun)
                log.info("vm.started", vm=machine.id, pid=begun.handle.pid, accelerator=begun.handle.accelerator)

    async def _let_go(self, machine: Machine, step: planner.Delete | planner.Retire | planner.Forget | Reject) -> None:
        await self._crossings.stop(machine.id)
        match step:
            case planner.Delete():
                await delete(machine, self._host)
                self._consoles.end(machine.id)
                log.info("vm.deleted", vm=machine.id)
                return
            case planner.Retire(fence=fence):
                await retire(machine, fence, self._copies, self._host)
                self._consoles.end(machine.id)
                self._copied()
                log.info("vm.retired", vm=machine.id, fence=fence, next="its disks are kept")
            case Reject():
                await self._crossings.carry_out(machine, step)
            case planner.Forget():
                await in_thread(self._host.records.remove, machine.id)
        del self._machines[machine.id]
        self._forgotten(machine.id)

    async def _discard(self, vm: VmId, fence: int) -> None:
        await in_thread(self._copies.discard, vm, fence)
        log.info("copy.discarded", vm=vm, fence=fence)
        self._counted("discard", "done")
        self._copied()

    def _make(self, record: Record) -> Machine:
        machine = Machine(record, self._host.records, self._host.clock, self._host.random, changed=self._changed)
        self._machines[record.id] = machine
        return machine

    def _changed(self, machine: Machine) -> None:
        # What only lies on the disk and was never told of is no fact about anything the control plane could know.
        # Of one that was let go of, somebody may still speak who watched its end.
        if machine.record.intent is not None and self._machines.get(machine.id) is machine:
            self._told(machine.observed())

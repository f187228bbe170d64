"""What to do next about each machine: desired against known, one step at a time. Called by the executor.

Pure. A plan is made anew after every step and every change, so it never has to be right about the future. The rules:
nothing is started that may be running; what was not told of is left alone; a lower generation than the one that was
accepted changes nothing; numbers of reboots and resets are recorded on first contact, not replayed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from nacre.agent.vms.presence import Presence
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId
from nacre.model.vms import Desired, ExitReason, RestartPolicy, VmIntent
from nacre.protocol.messages import NodeIntent

FREE_TEARDOWNS = 3
FREE_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the agent knows of one machine."""

    intent: VmIntent | None = None
    """The newest that was accepted."""
    presence: Presence
    deleted: bool = False
    reboot_nonce: int = 0
    reset_nonce: int = 0
    exit_reason: ExitReason | None = None
    """How the last life ended; None if there was none."""
    ended_under: int = 0
    """The generation in force when it ended."""
    failure: FailureClass | None = None
    retry_at: float = 0.0
    """Not before this time (monotonic) is tried again what failed or crashed."""

    @property
    def generation(self) -> int:
        """The newest that was accepted."""
        return 0 if self.intent is None else self.intent.generation


@dataclass(frozen=True)
class Nothing:
    """All is as it should be, or waits for somebody else."""


@dataclass(frozen=True)
class RetryAt:
    """Look again at this time (monotonic)."""

    at: float


@dataclass(frozen=True)
class Accept:
    """Take note of a newer intent. On first contact its numbers count as carried out."""

    intent: VmIntent


@dataclass(frozen=True)
class Adopt:
    """Find out whether there is a process, and take it over."""


@dataclass(frozen=True)
class Start:
    """Start it."""

    intent: VmIntent


@dataclass(frozen=True)
class Stop:
    """Switch it off, after asking the guest unless `force`."""

    intent: VmIntent
    force: bool


@dataclass(frozen=True)
class Reboot:
    """Switch it off as `Stop` does, to be started again."""

    intent: VmIntent


@dataclass(frozen=True)
class Reset:
    """Press the reset button, and record that number `nonce` is done."""

    nonce: int


@dataclass(frozen=True)
class Pause:
    """Hold its CPUs."""


@dataclass(frozen=True)
class Resume:
    """Let its CPUs run."""


@dataclass(frozen=True)
class Delete:
    """Leave nothing of it but a tombstone."""


@dataclass(frozen=True)
class RecordNonces:
    """Record these numbers as done: the machine is off, there is nothing to reboot or reset."""

    reboot: int
    reset: int


@dataclass(frozen=True)
class Forget:
    """Remove the tombstone."""


Step = (
    Nothing | RetryAt | Accept | Adopt | Start | Stop | Reboot | Reset | Pause | Resume | Delete | RecordNonces | Forget
)
NOTHING = Nothing()


@dataclass(frozen=True)
class Plan:
    """The next step of every machine that there is something to do for, and what is left alone."""

    steps: Mapping[VmId, Step] = field(default_factory=dict[VmId, Step])
    held: tuple[VmId, ...] = ()
    """Known here and not told of."""
    refused: frozenset[VmId] = frozenset()
    """To be torn down, but too many at once."""


def plan(intent: NodeIntent | None, known: Mapping[VmId, Known], now: float) -> Plan:
    """Return the next step of every machine. Without any desired state, machines are only looked for."""
    told = {} if intent is None else {vm.id: vm for vm in intent.vms}
    no = refused(intent, known)
    steps: dict[VmId, Step] = {}
    for vm in sorted(told.keys() | known.keys()):
        step = decide(told.get(vm), known.get(vm), now, synced=intent is not None, refused=vm in no)
        if step != NOTHING:
            steps[vm] = step
    return Plan(steps=steps, held=held(intent, known), refused=no)


def held(intent: NodeIntent | None, known: Mapping[VmId, Known]) -> tuple[VmId, ...]:
    """Name the machines that are here and were not told of."""
    if intent is None:
        return ()
    told = {vm.id for vm in intent.vms}
    return tuple(sorted(vm for vm, machine in known.items() if vm not in told and not machine.deleted))


def refused(intent: NodeIntent | None, known: Mapping[VmId, Known]) -> frozenset[VmId]:
    """Name the machines that this desired state would newly tear down although it is too many of them at once.

    All or none of the new ones: which of them are right, nobody here can know. Those accepted before go on.
    """
    if intent is None or intent.teardown_allowed:
        return frozenset()
    here = {vm: machine for vm, machine in known.items() if not machine.deleted}
    new = {vm.id for vm in intent.vms if vm.desired is Desired.ABSENT and _is_new(vm, here.get(vm.id))}
    return frozenset(new) if len(new) > max(FREE_TEARDOWNS, FREE_SHARE * len(here)) else frozenset()


def decide(
    told: VmIntent | None, known: Known | None, now: float, *, synced: bool = True, refused: bool = False
) -> Step:
    """Return the next step of one machine. `told` is None if the desired state (if `synced`) does not name it."""
    if known is None:
        return NOTHING if told is None else Accept(told)
    if known.presence is Presence.UNKNOWN and not known.deleted and not _may_go_unseen(told, known):
        return _at(known, now, Adopt())
    if told is None:
        return Forget() if known.deleted and synced else NOTHING
    if told.generation > known.generation and not refused:
        return Accept(told)
    if known.intent is None:
        return NOTHING
    return _toward(known.intent, known, now)


def interrupts(step: Step, told: VmIntent | None) -> bool:
    """Whether a newer intent makes it wrong to wait for the end of `step`, which is being carried out."""
    if told is None:
        return False
    match step:
        case Start(intent=intent):
            stays = told.desired in {Desired.RUNNING, Desired.PAUSED}
            return not stays or (told.spec, told.image) != (intent.spec, intent.image)
        case Stop(force=False):
            return told.desired is not Desired.STOPPED or told.force_stop
        case Reboot():
            return told.desired in {Desired.STOPPED, Desired.ABSENT}
        case Adopt():
            return told.desired is Desired.ABSENT
        case _:
            return False


def _is_new(told: VmIntent, known: Known | None) -> bool:
    return known is not None and told.generation > known.generation


def _may_go_unseen(told: VmIntent | None, known: Known) -> bool:
    """Whether a machine that could not be taken over may be switched off all the same: nothing else is wanted."""
    newest = max((each for each in (told, known.intent) if each is not None), key=_generation, default=None)
    if known.failure is None or newest is None or told is None:
        return False
    return newest.desired is Desired.ABSENT or (newest.desired is Desired.STOPPED and newest.force_stop)


def _generation(intent: VmIntent) -> int:
    return intent.generation


def _toward(intent: VmIntent, known: Known, now: float) -> Step:
    match intent.desired:
        case Desired.ABSENT:
            return NOTHING if known.deleted else _at(known, now, Delete())
        case Desired.STOPPED:
            if known.presence is Presence.NONE:
                return _settle_nonces(intent, known)
            if known.presence is Presence.LEAVING:
                return NOTHING
            return _at(known, now, Stop(intent, force=intent.force_stop))
        case Desired.RUNNING | Desired.PAUSED:
            return _alive(intent, known, now)


def _alive(intent: VmIntent, known: Known, now: float) -> Step:
    if known.presence is Presence.NONE:
        if _stays_down(intent, known):
            return _settle_nonces(intent, known)
        return _at(known, now, Start(intent))
    if known.presence is Presence.LEAVING:
        return NOTHING
    if intent.reboot_nonce > known.reboot_nonce:
        return _at(known, now, Reboot(intent))
    if intent.reset_nonce > known.reset_nonce:
        return _at(known, now, Reset(intent.reset_nonce))
    wanted = Presence.PAUSED if intent.desired is Desired.PAUSED else Presence.RUNNING
    if known.presence in {wanted, Presence.STARTING}:
        return NOTHING
    return _at(known, now, Pause() if known.presence is Presence.RUNNING else Resume())


def _stays_down(intent: VmIntent, known: Known) -> bool:
    """Whether the way the last life ended means that it is not started again under this generation."""
    if known.ended_under < intent.generation or intent.reboot_nonce > known.reboot_nonce:
        return False
    match known.exit_reason:
        case ExitReason.GUEST_SHUTDOWN:
            return intent.spec.restart is not RestartPolicy.ALWAYS
        case ExitReason.CRASHED | ExitReason.HOST_REBOOT:
            return intent.spec.restart is RestartPolicy.NEVER
        case _:
            return False


def _settle_nonces(intent: VmIntent, known: Known) -> Step:
    if (intent.reboot_nonce, intent.reset_nonce) == (known.reboot_nonce, known.reset_nonce):
        return NOTHING
    return RecordNonces(intent.reboot_nonce, intent.reset_nonce)


def _at(known: Known, now: float, step: Step) -> Step:
    if known.failure is FailureClass.PERMANENT:
        return NOTHING
    return step if known.retry_at <= now else RetryAt(known.retry_at)

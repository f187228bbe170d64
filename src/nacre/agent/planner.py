"""What to do next about each machine: desired against known, one step at a time. Called by the executor.

Pure. A plan is made anew after every step and every change, so it never has to be right about the future. The rules:
nothing is started that may be running; what was not told of is left alone; a lower generation than the one that was
accepted changes nothing; numbers of reboots and resets are recorded on first contact, not replayed; a placement that
has ended is let go of before anything of another one of the same machine begins.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from nacre.agent import checkpoint_planner
from nacre.agent.checkpoint_planner import NOTHING_HELD, Held
from nacre.agent.passages import NOWHERE, Crossing, coming, going
from nacre.agent.steps import (
    NOTHING,
    Accept,
    Adopt,
    Await,
    Change,
    Delete,
    Discard,
    DropCheckpoint,
    Forget,
    MergeLayers,
    Nothing,
    Pause,
    Plug,
    PutBack,
    Reboot,
    RecordNonces,
    Reset,
    Resume,
    Retire,
    RetryAt,
    Start,
    Step,
    Stop,
    TakeCheckpoint,
)
from nacre.agent.vms.presence import Presence
from nacre.model.arrivals import VmArrival
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId, VolumeId
from nacre.model.vm_changes import pending
from nacre.model.vms import Desired, ExitReason, RestartPolicy, RunInfo, VmIntent
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
    volumes: frozenset[VolumeId] | None = None
    """Those that the guest has open; None for one that takes none while it runs."""
    frozen: bool = False
    """Its guard holds it still: it hears nothing, and can only be ended."""
    resumable: bool = False
    """It is halted, and somebody has asked for it to go on."""
    run: RunInfo | None = None
    """What the newest life has of its configuration."""
    crossing: Crossing = NOWHERE
    """How it stands on its way from or to another node."""
    held: Held = NOTHING_HELD
    """Its checkpoints."""

    @property
    def generation(self) -> int:
        """The newest that was accepted."""
        return 0 if self.intent is None else self.intent.generation


@dataclass(frozen=True, kw_only=True)
class Void:
    """What is not to be here of one machine."""

    retired: int = -1
    """Placements up to this token are to be switched off and set aside."""
    discard: frozenset[int] = frozenset()
    """Copies of these placements are to be deleted."""


NOT_VOID = Void()
_KEEPING = TakeCheckpoint | DropCheckpoint | PutBack | MergeLayers


@dataclass(frozen=True)
class Plan:
    """The next step of every machine that there is something to do for, and what is left alone."""

    steps: Mapping[VmId, Step] = field(default_factory=dict[VmId, Step])
    held: tuple[VmId, ...] = ()
    """Known here and not told of."""
    refused: frozenset[VmId] = frozenset()
    """To be torn down, but too many at once."""


def plan(
    intent: NodeIntent | None,
    known: Mapping[VmId, Known],
    now: float,
    copies: Mapping[VmId, frozenset[int]] = MappingProxyType({}),
) -> Plan:
    """Return the next step of every machine. Without any desired state, machines are only looked for."""
    told, void, arriving = wanted(intent), voids(intent), arrivals(intent)
    no = refused(intent, known)
    steps: dict[VmId, Step] = {}
    for vm in sorted(told.keys() | known.keys() | void.keys() | arriving.keys()):
        step = decide(
            told.get(vm),
            known.get(vm),
            now,
            synced=intent is not None,
            refused=vm in no,
            void=void.get(vm, NOT_VOID),
            copies=copies.get(vm, frozenset()),
            arrival=arriving.get(vm),
        )
        if step != NOTHING:
            steps[vm] = step
    return Plan(steps=steps, held=held(intent, known), refused=no)


def voids(intent: NodeIntent | None) -> dict[VmId, Void]:
    """Return what is not to be here. Who asks for a copy to be deleted means that it should be one by now."""
    found: dict[VmId, Void] = {}
    if intent is None:
        return found
    for ref in (*intent.retired, *intent.discard):
        before = found.get(ref.id, NOT_VOID)
        found[ref.id] = replace(before, retired=max(before.retired, ref.fence))
    for ref in intent.discard:
        before = found[ref.id]
        found[ref.id] = replace(before, discard=before.discard | {ref.fence})
    return found


def wanted(intent: NodeIntent | None) -> dict[VmId, VmIntent]:
    """Return the machines that the node should have. Placements that have ended count as not named."""
    if intent is None:
        return {}
    void = voids(intent)
    return {vm.id: vm for vm in intent.vms if vm.fence > void.get(vm.id, NOT_VOID).retired}


def arrivals(intent: NodeIntent | None) -> dict[VmId, VmArrival]:
    """Return the machines that are to come from other nodes."""
    return {} if intent is None else {arrival.vm.id: arrival for arrival in intent.arrivals}


def held(intent: NodeIntent | None, known: Mapping[VmId, Known]) -> tuple[VmId, ...]:
    """Name the machines that are here and were not told of, neither to have them nor to let go of them."""
    if intent is None:
        return ()
    told, void = wanted(intent), voids(intent)
    return tuple(
        sorted(
            vm
            for vm, machine in known.items()
            if vm not in told
            and not machine.deleted
            and machine.crossing.arriving is None
            and to_retire(None, machine, void.get(vm, NOT_VOID)) is None
        )
    )


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
    told: VmIntent | None,
    known: Known | None,
    now: float,
    *,
    synced: bool = True,
    refused: bool = False,
    void: Void = NOT_VOID,
    copies: frozenset[int] = frozenset(),
    arrival: VmArrival | None = None,
) -> Step:
    """Return the next step of one machine. `told` is None if the desired state (if `synced`) does not name it.

    `copies` are those that there are of it.
    """
    step = _decide(told, known, now, synced=synced, refused=refused, void=void, arrival=arrival)
    unwanted = void.discard & copies
    if unwanted and isinstance(step, Nothing | RetryAt):
        return Discard(min(unwanted))
    return step


def to_retire(told: VmIntent | None, known: Known | None, void: Void) -> int | None:
    """Return the token of the placement that is here and has ended; None if there is none."""
    if known is None or known.deleted:
        return None
    if known.intent is None:  # nobody knows which one it is, so it is the newest that has ended, if any has
        return void.retired if void.retired >= 0 else None
    here = known.intent.fence
    ended = here <= void.retired or (told is not None and told.fence > here)
    return here if ended else None


def _decide(
    told: VmIntent | None,
    known: Known | None,
    now: float,
    *,
    synced: bool,
    refused: bool,
    void: Void,
    arrival: VmArrival | None = None,
) -> Step:
    if known is None:
        if told is None:
            return NOTHING if arrival is None else Await(arrival)
        return Accept(told)
    comes = coming(told, known.crossing, known.presence, arrival, synced=synced)
    if comes is not None:
        return comes if comes == NOTHING else _at(known, now, comes)
    retiring = to_retire(told, known, void)
    if retiring is not None and (known.presence is not Presence.UNKNOWN or known.failure is not None):
        return Retire(retiring) if known.retry_at <= now else RetryAt(known.retry_at)
    if known.presence is Presence.UNKNOWN and not known.deleted and not _may_go_unseen(told, known):
        return _at(known, now, Adopt())
    if told is None:
        return Forget() if known.deleted and synced else NOTHING
    if told.generation > known.generation and not refused:
        return Accept(told) if known.crossing.arriving is None else _at(known, now, Accept(told))
    if known.intent is None:
        return NOTHING
    return _toward(known.intent, known, now)


def interrupts(
    step: Step, told: VmIntent | None, *, retiring: bool = False, waiting: bool = False, alive: bool = True
) -> bool:
    """Whether a newer intent makes it wrong to wait for the end of `step`, which is being carried out.

    `retiring` says that the placement which it is about has ended, `waiting` that it waits for a disk to be free, and
    `alive` that there may be a process.
    """
    if retiring:
        return isinstance(step, Start | Stop | Reboot | Reset | Pause | Resume | Change | Plug | _KEEPING)
    if told is None:
        return False
    if waiting and isinstance(step, Plug | _KEEPING):
        return True
    off = told.desired in {Desired.STOPPED, Desired.ABSENT}
    match step:
        case Start(intent=intent):
            stays = told.desired in {Desired.RUNNING, Desired.PAUSED}
            return not stays or (told.spec, told.image) != (intent.spec, intent.image)
        case Stop(force=False):
            return told.desired is not Desired.STOPPED or told.force_stop
        case Reboot() | Plug():
            return off
        case Change(intent=intent):
            return told.desired is not Desired.RUNNING or told.spec != intent.spec
        case Adopt() | PutBack():
            return told.desired is Desired.ABSENT
        case TakeCheckpoint(checkpoint=checkpoint):
            wanted = told.desired is not Desired.ABSENT and checkpoint in told.checkpoints
            return not wanted or (alive and off and told.force_stop)
        case MergeLayers():
            return True
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
    goes = going(intent, known.crossing, known.presence)
    if goes is not None:
        return goes if goes == NOTHING else _at(known, now, goes)
    if intent.desired is Desired.ABSENT:
        return NOTHING if known.deleted else _at(known, now, Delete())
    kept = None if known.frozen else _keep(intent, known)
    if kept is not None:
        return _at(known, now, kept)
    step = _be(intent, known, now)
    idle = checkpoint_planner.idle(known.held, known.presence)
    return step if step != NOTHING or idle is None or known.frozen else _at(known, now, idle)


def _keep(intent: VmIntent, known: Known) -> Step | None:
    """Return what is to be done about checkpoints first. A guest that should run and stands still goes on before."""
    if known.presence is Presence.PAUSED and intent.desired is Desired.RUNNING:
        return None
    if checkpoint_planner.after_off(intent, known.held, known.presence, known.failure):
        return None
    plugged = known.volumes is None or known.volumes == _volumes(intent)
    return checkpoint_planner.urgent(intent, known.held, known.presence, plugged=plugged)


def _be(intent: VmIntent, known: Known, now: float) -> Step:
    match intent.desired:
        case Desired.STOPPED:
            if known.presence is Presence.NONE:
                return _settle_nonces(intent, known)
            if known.presence is Presence.LEAVING or (known.frozen and not intent.force_stop):
                return NOTHING
            return _at(known, now, Stop(intent, force=intent.force_stop))
        case _:
            return _alive(intent, known, now)


def _alive(intent: VmIntent, known: Known, now: float) -> Step:
    if known.presence is Presence.NONE:
        if _stays_down(intent, known):
            return _settle_nonces(intent, known)
        return _at(known, now, Start(intent))
    if known.presence is Presence.LEAVING or known.frozen:
        return NOTHING
    if intent.reboot_nonce > known.reboot_nonce:
        return _at(known, now, Reboot(intent))
    if intent.reset_nonce > known.reset_nonce:
        return _at(known, now, Reset(intent.reset_nonce))
    wanted = Presence.PAUSED if intent.desired is Desired.PAUSED else Presence.RUNNING
    if known.presence is Presence.HALTED and not (known.resumable and wanted is Presence.RUNNING):
        return NOTHING
    if known.presence is wanted and known.volumes is not None and known.volumes != _volumes(intent):
        return _at(known, now, Plug(intent))
    if known.presence is Presence.RUNNING and wanted is Presence.RUNNING and pending(intent.spec, known.run):
        return _at(known, now, Change(intent))
    if known.presence in {wanted, Presence.STARTING}:
        return NOTHING
    return _at(known, now, Pause() if known.presence is Presence.RUNNING else Resume())


def _volumes(intent: VmIntent) -> frozenset[VolumeId]:
    return frozenset(attachment.volume for attachment in intent.volumes)


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

"""A move of a running machine as a world of few parts: the control plane's rows, two agents, two processes, one line.

What decides is the real thing: `move_steps.next_step`, `move_streams.after_report`, the planner, and `volume_users` of
a volume that both nodes reach. What acts is a model of it, one step at a time, in any order, with deaths in between.
`check` must hold after every step.
"""

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import msgspec

from nacre.agent import steps as do
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.passages import Crossing
from nacre.agent.planner import Known, arrivals, decide, voids, wanted
from nacre.agent.vms.machine import Machine
from nacre.agent.vms.presence import Presence
from nacre.agent.volume_users import user_of
from nacre.control.services import move_steps
from nacre.control.services.live_moves import MAX_ATTEMPTS
from nacre.control.store.move_streams import StreamRow, Told, after_report
from nacre.control.store.moves import MoveRow
from nacre.control.store.nodes import NodeRow
from nacre.control.store.vms import VmRow
from nacre.model.arrivals import VmArrival
from nacre.model.copies import RetiredVm
from nacre.model.ids import ImageId, MoveId, NodeId, ProjectId, StreamId, VmId, VolumeId
from nacre.model.images import ImageManifest
from nacre.model.migrations import ArrivalObserved, ArrivalState, Outgoing, OutgoingObserved, SendState
from nacre.model.moves import MOVE_ENDS, MoveMethod, MoveReason, MoveState, step
from nacre.model.nodes import NodeState
from nacre.model.vms import Desired, Phase, RunInfo, VmIntent, VmObserved, VmSpec
from nacre.model.volumes import LOCAL_POOL, VolumeAttachment, VolumeIntent, Wish
from nacre.protocol.messages import NodeIntent

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B = NodeId("node-a"), NodeId("node-b")
VM = VmId("vm-" + "0" * 26)
SPEC = VmSpec(image=ImageId("img-" + "0" * 26))
RUN = RunInfo(
    id="run-1",  # type: ignore[arg-type]
    started_at=NOW,
    accelerator="tcg",
    accelerator_reason="",
    cpus=SPEC.cpus,
    memory_bytes=SPEC.memory_bytes,
)
VOLUME = VolumeId("vol-" + "0" * 26)
DATA = VolumeIntent(
    id=VOLUME,
    project=ProjectId("prj-1"),
    name="data",
    generation=1,
    desired=Wish.PRESENT,
    pool=LOCAL_POOL,
    size_bytes=1 << 20,
)
NO_PROCESS, RUNS, PAUSED, SENT, WAITS, HELD = "none", "runs", "paused", "sent", "waits", "held"
"""What a process is at: `sent` stands still because all has left, `waits` for what comes, `held` has it."""
ROUNDS, QUIET = 600, 4
PRESENCE = {
    NO_PROCESS: Presence.NONE,
    RUNS: Presence.RUNNING,
    PAUSED: Presence.PAUSED,
    SENT: Presence.PAUSED,
    WAITS: Presence.STARTING,
    HELD: Presence.PAUSED,
}


@dataclass
class Agent:
    """One node: what is on its disk, what its agent knows, and the process."""

    node: NodeId
    intent: VmIntent | None = None
    known: bool = False
    """Whether there is a record of the machine."""
    sending: tuple[StreamId, bool] | None = None
    arriving: tuple[StreamId, bool] | None = None
    reboots: int = 0
    desired: NodeIntent | None = None
    process: str = NO_PROCESS
    up: bool = True
    seen: bool = True
    """Whether it has looked for the process since it began."""
    outgoing: OutgoingObserved | None = None
    arrival: ArrivalObserved | None = None
    offered: bool = False
    layer: int = 0
    """The file of the volume that the process has open."""
    writes: bool = False
    """Whether the process has the volume for itself: it would write if the guest did."""


@dataclass
class World:
    """Everything."""

    chance: random.Random
    now: datetime = NOW
    a: Agent = field(default_factory=lambda: Agent(A))
    b: Agent = field(default_factory=lambda: Agent(B))
    copying: StreamId | None = None
    """The stream by which memory flows from the one process to the other."""
    in_flight: StreamId | None = None
    """The stream of which all has left the one process and not all has reached the other."""
    held_by: StreamId | None = None
    """The stream by which what the target holds has come."""
    home: NodeId = A
    """The node of the volume's row."""
    layer: int = 0
    """The file of the volume that is to be written, as its pool says."""
    boots: int = 1
    losses: int = 0
    """Processes that were killed, and whatever else makes a fresh start right."""
    streams: dict[StreamId, StreamRow] = field(default_factory=dict[StreamId, StreamRow])
    log: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self.vm = VmRow(
            id=VM,
            project=ProjectId("prj-1"),
            name="web",
            labels={},
            spec=SPEC,
            image=SPEC.image,
            image_name="tiny",
            desired=Desired.RUNNING,
            generation=1,
            finalizers=["node"],
            node=A,
            fence=1,
            reserved_cpus=1,
            reserved_memory_bytes=1,
            reserved_disk_bytes=0,
            observed_generation=1,
            phase=Phase.RUNNING,
            since=NOW,
            run=RUN,
            created_at=NOW,
            updated_at=NOW,
        )
        self.move = MoveRow(
            id=MoveId("mov-1"),
            vm=VM,
            vm_name="web",
            project=ProjectId("prj-1"),
            reason=MoveReason.USER,
            method=MoveMethod.LIVE,
            state=MoveState.PENDING,
            source=A,
            created_by="root",
            created_at=NOW,
            updated_at=NOW,
        )
        self.retired: int | None = None
        self.a.intent, self.a.known, self.a.process = self._intent(), True, RUNS
        self.a.writes = True
        self.a.desired = self.told(A)

    # What must hold

    def running(self) -> list[NodeId]:
        return [agent.node for agent in (self.a, self.b) if agent.process == RUNS]

    def check(self) -> None:
        assert len(self.running()) <= 1, self.log
        assert self.boots <= 1 + self.losses, self.log
        writers = [agent for agent in (self.a, self.b) if agent.writes]
        assert len(writers) <= 1, self.log
        assert all(agent.writes for agent in (self.a, self.b) if agent.process == RUNS), self.log
        assert all(agent.layer == self.layer for agent in writers), self.log
        assert self.home == self.vm.node, self.log

    # The control plane

    def control(self) -> None:
        """Carry out what is next."""
        if self.move.state in MOVE_ENDS:
            return
        stream = self.streams.get(self.move.stream) if self.move.stream else None
        todo = move_steps.next_step(
            self.move, self.vm, node_row(A), node_row(B) if self.move.target else None, self.now, stream
        )
        self.log.append(f"control {todo.__class__.__name__} {getattr(todo, 'message', '')}")
        match todo:
            case move_steps.Seek():
                self._seek()
            case move_steps.Order():
                self.move = replace(self.move, ordered=True)
                self._raise()
            case move_steps.HandOver():
                self._to(MoveState.STARTING)
                self.retired = self.vm.fence
                self._raise(
                    node=B, fence=self.vm.fence + 1, arrived_by=self.move.stream, observed_generation=0, run=None
                )
                self.vm, self.home = replace(self.vm, phase=Phase.PENDING), B
            case move_steps.TakeBack():
                self._withdraw()
                self._to(MoveState.PENDING, target=None, ordered=False)
            case move_steps.End(state=state):
                self._withdraw()
                self._to(state)
            case _:
                pass

    def ask(self, desired: Desired, *, reboot: bool = False) -> None:
        """A user wants something else."""
        self.losses += reboot or desired is Desired.STOPPED
        self._raise(desired=desired, reboot_nonce=self.vm.reboot_nonce + reboot)

    def abort(self) -> None:
        """A user takes the move back, if it is not too late."""
        if self.move.state in {MoveState.PENDING, MoveState.MIGRATING}:
            self._withdraw()
            self._to(MoveState.ABORTED)

    def _seek(self) -> None:
        if self.vm.desired is not Desired.RUNNING or self.vm.phase is not Phase.RUNNING:
            self._to(MoveState.FAILED)
            return
        name = StreamId(f"str-{len(self.streams)}")
        self.streams[name] = StreamRow(
            id=name,
            move=self.move.id,
            vm=VM,
            source=A,
            target=B,
            addresses=[],
            created_at=self.now,
            changed_at=self.now,
        )
        self._to(
            MoveState.MIGRATING,
            target=B,
            stream=name,
            ordered=False,
            attempts=min(self.move.attempts + 1, MAX_ATTEMPTS),
        )

    def _to(self, state: MoveState, **changes: object) -> None:
        self.move = replace(self.move, state=step(self.move.state, state), updated_at=self.now, **changes)  # type: ignore[arg-type]

    def _withdraw(self) -> None:
        if self.move.state is MoveState.MIGRATING and self.move.ordered:
            self._raise()

    def _raise(self, **changes: object) -> None:
        self.vm = replace(self.vm, generation=self.vm.generation + 1, **changes)  # type: ignore[arg-type]

    def _intent(self, **changes: object) -> VmIntent:
        row = self.vm
        intent = VmIntent(
            id=VM,
            project=row.project,
            name=row.name,
            generation=row.generation,
            desired=row.desired,
            spec=row.spec,
            image=ImageManifest(id=row.image, artifacts=()),
            reboot_nonce=row.reboot_nonce,
            fence=row.fence,
            arrived_by=row.arrived_by,
            volumes=(VolumeAttachment(volume=VOLUME),),
            force_stop=True,
        )
        return msgspec.structs.replace(intent, **changes)

    def told(self, node: NodeId) -> NodeIntent:
        """What a node would be told now."""
        live = self.move.state is MoveState.MIGRATING and self.move.stream is not None
        vms: tuple[VmIntent, ...] = ()
        coming: tuple[VmArrival, ...] = ()
        if self.vm.node == node:
            order = None
            if live and node == A and self.move.ordered and self.move.stream is not None:
                order = Outgoing(stream=self.move.stream, target=B, addresses=("b:1",))
            vms = (self._intent(outgoing=order),)
        if live and node == B and self.move.stream is not None:
            there = self._intent(fence=self.vm.fence + 1)
            coming = (VmArrival(stream=self.move.stream, source=A, vm=there),)
        gone = (RetiredVm(id=VM, fence=self.retired),) if self.retired is not None and node == A else ()
        return NodeIntent(vms=vms, arrivals=coming, retired=gone, volumes=(DATA,) if self.home == node else ())

    # Messages

    def sync(self, agent: Agent) -> None:
        if agent.up:
            agent.desired = self.told(agent.node)

    def report(self, agent: Agent) -> None:
        """What the agent says reaches the control plane."""
        if agent.up and agent.known and agent.intent is not None:
            self.heard(agent.node, _observed(agent))

    def heard(self, node: NodeId, seen: VmObserved) -> None:
        """What a node says of the machine is stored."""
        said = Told(node=node, vm=VM, outgoing=seen.outgoing, arriving=seen.arriving)
        if said.stream in self.streams:
            before = self.streams[said.stream]
            after = after_report(before, said)
            if after != before:
                self.streams[before.id] = replace(after, changed_at=self.now)
        if self.vm.node == node and seen.fence == self.vm.fence and seen.generation >= self.vm.observed_generation:
            self.vm = replace(
                self.vm,
                observed_generation=seen.generation,
                phase=seen.phase,
                applied_reboot_nonce=seen.reboot_nonce,
                run=(seen.run or RUN) if seen.phase in {Phase.RUNNING, Phase.PAUSED} else self.vm.run,
            )

    # Agents

    def work(self, agent: Agent) -> None:
        """Do the next step for the machine."""
        if not agent.up:
            return
        todo = decide(
            wanted(agent.desired).get(VM),
            _known(agent),
            0.0,
            synced=agent.desired is not None,
            void=voids(agent.desired).get(VM, decide.__kwdefaults__["void"]),
            arrival=arrivals(agent.desired).get(VM),
        )
        if todo != do.NOTHING:
            self.log.append(f"{agent.node} {todo.__class__.__name__}")
        self._act(agent, todo)

    def _act(self, agent: Agent, todo: do.Step) -> None:
        match todo:
            case do.Accept(intent=intent):
                agent.known, agent.intent = True, intent
                agent.writes |= agent.arriving is not None and agent.process == HELD
                agent.arriving, agent.arrival, agent.offered = None, None, False
            case do.Adopt():
                agent.seen = True
            case do.Start():
                agent.process, agent.reboots = RUNS, agent.intent.reboot_nonce if agent.intent else 0
                agent.writes, agent.layer = True, self.layer
                self.boots += 1
            case do.Stop() | do.Reboot():
                self._end(agent)
            case do.Pause():
                agent.process = PAUSED if agent.process == RUNS else agent.process
            case do.Resume():
                assert agent.process in {PAUSED, HELD}, self.log
                came = agent.intent.arrived_by if agent.intent is not None else None
                assert agent.process == PAUSED or came == self.held_by, self.log
                agent.process, agent.writes = RUNS, True
            case do.RecordNonces(reboot=reboot):
                agent.reboots = reboot
            case do.Retire() | do.Reject():
                self._end(agent)
                self._forget(agent)
            case do.Forget():
                self._forget(agent)
            case _:
                self._cross(agent, todo)

    def _cross(self, agent: Agent, todo: do.Step) -> None:
        match todo:
            case do.Send(intent=intent):
                assert intent.outgoing is not None
                stream = intent.outgoing.stream
                agent.sending = (stream, False)
                agent.outgoing = OutgoingObserved(stream=stream, state=SendState.WAITING)
                there = self.b.arrival
                if self.b.up and there is not None and (there.stream, there.state) == (stream, ArrivalState.READY):
                    self.b.offered = True
                else:
                    agent.outgoing = OutgoingObserved(stream=stream, state=SendState.FAILED)
            case do.Recollect():
                assert agent.sending is not None
                self._recollect(agent, agent.sending)
            case do.Recall():
                self.cut()
                if agent.process == SENT:
                    agent.process, agent.writes = RUNS, True
                agent.sending, agent.outgoing = None, None
            case do.Await(arrival=arrival):
                self._await(agent, arrival)
            case do.Receive():
                assert agent.arriving is not None
                stream, agent.offered = agent.arriving[0], False
                agent.arriving, agent.process = (stream, True), WAITS
                agent.layer = self.layer
                self._arrival(agent, ArrivalState.COPYING)
                if self.a.up and self.a.outgoing == OutgoingObserved(stream=stream, state=SendState.WAITING):
                    self.copying = stream
            case _:
                pass

    def _recollect(self, agent: Agent, sending: tuple[StreamId, bool]) -> None:
        if sending[1] or agent.process == SENT:
            agent.sending = (sending[0], True)
            agent.outgoing = OutgoingObserved(stream=sending[0], state=SendState.SENT)
        else:
            agent.outgoing = OutgoingObserved(stream=sending[0], state=SendState.FAILED)

    def _await(self, agent: Agent, arrival: VmArrival) -> None:
        if agent.arriving == (arrival.stream, True):
            state = ArrivalState.ARRIVED if agent.process == HELD else ArrivalState.FAILED
            self._arrival(agent, state)
            return
        agent.known, agent.intent, agent.seen = True, arrival.vm, True
        agent.reboots = arrival.vm.reboot_nonce
        agent.arriving = (arrival.stream, False)
        self._arrival(agent, ArrivalState.READY)

    def watch(self, agent: Agent) -> None:
        """The agent looks at what goes on beside its lane."""
        if not agent.up or not agent.seen:
            return
        if agent.sending is not None and agent.outgoing is not None and not agent.sending[1]:
            stream = agent.sending[0]
            if agent.process == SENT:
                agent.sending = (stream, True)  # on its disk, and only then told
                agent.outgoing = OutgoingObserved(stream=stream, state=SendState.SENT)
            elif self.copying != stream and not self.b.offered:
                agent.outgoing = OutgoingObserved(stream=stream, state=SendState.FAILED)
        if agent.arrival is not None and agent.arrival.state in {ArrivalState.COPYING, ArrivalState.ARRIVED}:
            if agent.process == HELD:
                self._arrival(agent, ArrivalState.ARRIVED)
            elif agent.process == NO_PROCESS or (self.copying is None and self.in_flight is None):
                self._arrival(agent, ArrivalState.FAILED)

    def _arrival(self, agent: Agent, state: ArrivalState) -> None:
        assert agent.arriving is not None
        agent.arrival = ArrivalObserved(stream=agent.arriving[0], state=state, addresses=("b:1",))

    def _end(self, agent: Agent) -> None:
        if agent.process in {RUNS, WAITS}:
            self.cut()
        agent.process, agent.writes = NO_PROCESS, False

    def _forget(self, agent: Agent) -> None:
        agent.known, agent.intent, agent.sending, agent.arriving = False, None, None, None
        agent.outgoing, agent.arrival, agent.offered = None, None, False

    def change_volume(self, agent: Agent) -> None:
        """The agent does what changes the files of the volume, such as taking a snapshot, if it may."""
        if not agent.up or agent.desired is None or agent.desired.volumes == ():
            return
        try:
            user = user_of([_machine(agent)], VOLUME)
        except DriverError:
            return
        self.log.append(f"{agent.node} changes the volume")
        self.layer += 1
        if user is not None:
            agent.layer = self.layer

    # What happens by itself

    def flow(self) -> None:
        """What the one process sends has left it; or what has left it has come."""
        if self.copying is not None and self.a.process == RUNS:
            self.a.process, self.in_flight, self.copying = SENT, self.copying, None
            self.a.writes = False
        elif self.in_flight is not None and self.b.process == WAITS:
            self.b.process, self.held_by, self.in_flight = HELD, self.in_flight, None

    def cut(self, *, at_the_end: bool = False) -> None:
        """The line breaks: what is not whole is of no use. `at_the_end`: all has come, and the sender thinks not."""
        if self.copying is not None and at_the_end and self.b.process == WAITS:
            self.b.process, self.held_by = HELD, self.copying  # and the guest goes on at its source
        elif (self.copying or self.in_flight) is not None and self.b.process == WAITS:
            self.b.process = NO_PROCESS
        self.copying = self.in_flight = None

    def kill_agent(self, agent: Agent) -> None:
        self.log.append(f"{agent.node} agent dies")
        if self.in_flight is not None and self.chance.random() < 0.5:
            self.flow()
        self.cut()
        agent.up, agent.seen = False, False
        agent.outgoing, agent.arrival, agent.offered = None, None, False

    def start_agent(self, agent: Agent) -> None:
        agent.up = True

    def kill_process(self, agent: Agent) -> None:
        self.log.append(f"{agent.node} process dies: {agent.process}")
        if agent.process == NO_PROCESS:
            return
        self.losses += 1
        self.cut()
        agent.process, agent.writes = NO_PROCESS, False

    def fail_over(self) -> None:
        """The source is given up: its lease has ended, and nothing runs there. The token is the reserved one."""
        if self.vm.node != A:
            return
        self.kill_agent(self.a)
        self.losses += 1
        self.a.writes, self.home = False, B
        self.a.process, self.a.desired = NO_PROCESS, None  # and without a lease nothing is started there
        self.retired = self.vm.fence
        self._raise(node=B, fence=self.vm.fence + 1, arrived_by=None, observed_generation=0, run=None)
        self.vm = replace(self.vm, phase=Phase.PENDING)

    def later(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def calm(self) -> None:
        """Nothing breaks any more, and everybody has a turn, until all has been quiet for a while."""
        quiet = 0
        for _ in range(ROUNDS):
            before = self._looks()
            for agent in (self.a, self.b):
                self.start_agent(agent)
                for turn in (self.sync, self.work, self.watch, self.report):
                    turn(agent)
                    self.check()
            self.control()
            self.flow()
            self.check()
            self.later(5)
            quiet = quiet + 1 if self._looks() == before and self.move.state in MOVE_ENDS else 0
            if quiet > QUIET:
                return

    def _looks(self) -> tuple[object, ...]:
        agents = [(each.process, each.known, each.intent, each.sending, each.arriving) for each in (self.a, self.b)]
        return (*agents, self.move.state, self.vm.generation, self.vm.phase)


def node_row(name: str) -> NodeRow:
    """A node that is ready."""
    node = NodeId(name)
    return NodeRow(
        id=node,
        name=node,
        state=NodeState.READY,
        labels={},
        own_labels={},
        region="",
        zone="",
        key_fingerprint=node,
        created_at=NOW,
        updated_at=NOW,
    )


def _known(agent: Agent) -> Known | None:
    if not agent.known:
        return None
    return Known(
        intent=agent.intent,
        presence=PRESENCE[agent.process] if agent.seen else Presence.UNKNOWN,
        reboot_nonce=agent.reboots,
        crossing=Crossing(
            sending=agent.sending[0] if agent.sending else None,
            sent=agent.sending is not None and agent.sending[1],
            astray=agent.sending is not None and agent.outgoing is None,
            arriving=agent.arriving[0] if agent.arriving else None,
            arrival=agent.arrival.state if agent.arrival else None,
            offered=agent.offered,
        ),
    )


def _machine(agent: Agent) -> Machine:
    """As much of it as tells who has a volume open."""
    alive = agent.process != NO_PROCESS
    info = SimpleNamespace(volumes=(VOLUME,), exited_at=None if alive else NOW)
    record = SimpleNamespace(
        sending=agent.sending,
        arriving=agent.arriving,
        intent=agent.intent,
        run=SimpleNamespace(info=info) if agent.known else None,
        plugging=(),
        starting=None,
    )
    presence = PRESENCE[agent.process] if agent.seen else Presence.UNKNOWN
    guest = object() if alive and agent.seen else None
    return cast("Machine", SimpleNamespace(record=record, presence=presence, guest=guest, frozen=False))


def _observed(agent: Agent) -> VmObserved:
    assert agent.intent is not None
    phase = {RUNS: Phase.RUNNING, NO_PROCESS: Phase.STOPPED, WAITS: Phase.STARTING}.get(agent.process, Phase.PAUSED)
    if agent.sending is not None and phase is Phase.PAUSED:
        phase = Phase.RUNNING
    if phase is Phase.STOPPED and agent.intent.desired is not Desired.STOPPED:
        phase = Phase.CRASHED
    return VmObserved(
        id=VM,
        generation=agent.intent.generation,
        phase=phase,
        since=NOW,
        reboot_nonce=agent.reboots,
        fence=agent.intent.fence,
        outgoing=agent.outgoing,
        arriving=agent.arrival,
    )

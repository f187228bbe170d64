"""A control plane without programs: projects, images and nodes as rows, and agents that do as they are told.

For tests of everything between the API and the agents' link.
"""

import secrets
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from nacre.control.auth.principals import Caller, Principal
from nacre.control.auth.sealing import Sealer
from nacre.control.gateway import desired, observed
from nacre.control.reconcilers.vms import Placer
from nacre.control.services import node_signs, projects, vms
from nacre.control.store import images as image_store
from nacre.control.store import nodes as node_store
from nacre.control.store import placements
from nacre.control.store import projects as project_store
from nacre.control.store.db import Database, Tx
from nacre.control.store.images import ImageRow, Origin, Part, Stage
from nacre.control.store.nodes import NodeRow
from nacre.control.store.placements import Written
from nacre.control.store.projects import ProjectRow
from nacre.model.capabilities import BASELINE, NATIVE, Capability, told
from nacre.model.checkpoints import CheckpointIntent, CheckpointObserved
from nacre.model.consistency import Consistency
from nacre.model.ids import ImageId, NodeId, ProjectId, RunId, VmId, make_id
from nacre.model.images import Artifact, Format, ImageDefaults, ImageState, Role, Visibility
from nacre.model.nodes import Capacity, HypervisorInfo, NodeFacts, NodeState
from nacre.model.placement import Decision, Strategy
from nacre.model.units import GIB, MIB
from nacre.model.vm_changes import seed_of
from nacre.model.vms import Desired, ExitReason, HaPolicy, Phase, RunInfo, VmIntent, VmObserved
from nacre.model.volumes import Wish
from nacre.protocol.messages import HeldVm, Observed
from nacre.schema.common import Accepted, AcceptedBatch
from nacre.schema.vms import VmCreate, VmOut
from support.access import ADMIN

SEALER = Sealer(bytes(32))
"""What seals secrets in tests."""


def by(action: str, principal: Principal = ADMIN) -> Caller:
    """A request of somebody, by default of an administrator."""
    return Caller(principal=principal, action=action, request_id="req")


async def make_project(tx: Tx, name: str) -> ProjectId:
    """Insert a project."""
    now = tx.now()
    project = ProjectId(tx.new_id("project"))
    row = ProjectRow(id=project, name=name, description="", labels={}, version=1, created_at=now, updated_at=now)
    await project_store.add(tx, row, taken=projects.missing(name))
    return project


async def make_image(
    tx: Tx,
    project: ProjectId,
    name: str = "tiny",
    *,
    disk_bytes: int | None = None,
    state: ImageState = ImageState.READY,
    defaults: ImageDefaults | None = None,
    visibility: Visibility = Visibility.PRIVATE,
) -> ImageId:
    """Insert an image with a kernel, or with a disk if `disk_bytes` says how large."""
    role, size = (Role.KERNEL, 10 * MIB) if disk_bytes is None else (Role.DISK, disk_bytes)
    form = Format.RAW if disk_bytes is None else Format.QCOW2
    artifact = Artifact(role=role, format=form, size_bytes=MIB, sha256="0" * 64, virtual_size_bytes=size)
    now = tx.now()
    row = ImageRow(
        id=ImageId(tx.new_id("image")),
        project=project,
        name=name,
        labels={},
        visibility=visibility,
        state=state,
        kernel_args="console=ttyS0",
        defaults=defaults or ImageDefaults(),
        parts=(Part(role=role, origin=Origin.UPLOAD, stage=Stage.DONE, artifact=artifact),),
        error_code="",
        error="",
        hint="",
        generation=1,
        version=1,
        attempts=0,
        work_at=None,
        claim=None,
        created_by="root",
        created_at=now,
        updated_at=now,
    )
    await image_store.add(tx, row, taken=projects.missing(name))
    return row.id


def facts(*, cpus: int = 8, memory_bytes: int = 16 * GIB, disk_bytes: int = 100 * GIB) -> NodeFacts:
    """What an agent says about a host that can run machines."""
    return NodeFacts(
        hostname="host",
        os="Debian",
        kernel="6.1",
        architecture="x86_64",
        agent_version="0",
        boot_id="boot-1",
        capacity=Capacity(cpus=cpus, memory_bytes=memory_bytes, disk_bytes=disk_bytes),
        hypervisors=(HypervisorInfo(name="qemu", available=True, machines=("q35", "pc"), abilities=("guard",)),),
        streams=("exec", "display", "metrics", "export"),
    )


def able(*capabilities: Capability) -> NodeFacts:
    """The same, of a host whose QEMU says that it can do this, besides what all can."""
    (info,) = facts().hypervisors
    offer = told(dict.fromkeys((*BASELINE, *capabilities), NATIVE))
    return msgspec.structs.replace(facts(), hypervisors=(msgspec.structs.replace(info, offer=offer),))


async def make_node(tx: Tx, name: str = "node-1", *, told: NodeFacts | None = None) -> NodeId:
    """Insert a node whose agent has connected."""
    now = tx.now()
    node = NodeId(tx.new_id("node"))
    row = NodeRow(
        id=node,
        name=name,
        state=NodeState.ENROLLING,
        labels={},
        own_labels={},
        region="",
        zone="",
        key_fingerprint=name,
        created_at=now,
        updated_at=now,
    )
    await node_store.add(tx, row)
    await node_signs.connected(tx, node, told or facts(), "instance-1")
    return node


@dataclass
class Agent:
    """An agent that does at once what it is told, and reports it. Tests replace what it `has` to make it fail."""

    db: Database
    node: NodeId
    has: dict[VmId, VmObserved] = field(default_factory=dict[VmId, VmObserved])
    sequence: int = 0
    instance: str = "instance-1"

    async def intents(self) -> dict[VmId, VmIntent]:
        """Pull."""
        async with self.db.read() as rd:
            return {intent.id: intent for intent in (await desired.load(rd, self.node, SEALER)).vms}

    async def sync(self) -> None:
        """Pull, do, report everything."""
        for intent in (await self.intents()).values():
            self.has[intent.id] = self.done(intent)
        await self.report(complete=True)

    async def report(
        self, *vms: VmObserved, complete: bool = False, held: tuple[HeldVm, ...] = (), sequence: int | None = None
    ) -> bool:
        """Send facts: `vms`, or with `complete` all that it has. False if they were stale."""
        self.sequence += 1
        for vm in vms:
            self.has[vm.id] = vm
        message = Observed(
            sequence=sequence or self.sequence,
            digest="",
            complete=complete,
            vms=tuple(self.has.values()) if complete else vms,
            held=held,
        )
        accepted = await observed.apply(self.db, self.node, message, instance=self.instance)
        if complete:
            self.has = {vm: seen for vm, seen in self.has.items() if seen.phase is not Phase.ABSENT}
        return accepted

    def done(self, intent: VmIntent) -> VmObserved:
        """What a machine looks like once the intent has been carried out."""
        now = self.db.clock.now()
        before = self.has.get(intent.id)
        run = before.run if before is not None else None
        if intent.desired in {Desired.RUNNING, Desired.PAUSED}:
            run = run if run is not None and run.exited_at is None else new_run(intent, now)
        elif run is not None and run.exited_at is None:
            run = ended(run, ExitReason.STOPPED, now)
        phase = {
            Desired.RUNNING: Phase.RUNNING,
            Desired.PAUSED: Phase.PAUSED,
            Desired.STOPPED: Phase.STOPPED,
            Desired.ABSENT: Phase.ABSENT,
        }[intent.desired]
        return VmObserved(
            id=intent.id,
            generation=intent.generation,
            phase=phase,
            since=now,
            run=run,
            reboot_nonce=intent.reboot_nonce,
            reset_nonce=intent.reset_nonce,
            restore_nonce=0 if intent.restore is None else intent.restore.nonce,
            checkpoints=tuple(self.kept(one) for one in intent.checkpoints if one.desired is Wish.PRESENT),
            fence=intent.fence,
        )

    def kept(self, wanted: CheckpointIntent) -> CheckpointObserved:
        """What is told of a checkpoint that has been taken."""
        return CheckpointObserved(
            id=wanted.id,
            taken_at=self.db.clock.now(),
            consistency=Consistency.MEMORY if wanted.memory else Consistency.CRASH,
            size_bytes=GIB,
            disk_bytes=GIB,
            memory_bytes=MIB if wanted.memory else 0,
        )


def new_run(intent: VmIntent, now: datetime) -> RunInfo:
    """A life that has just begun."""
    return RunInfo(
        id=RunId(make_id("run", now, secrets.token_bytes(10))),
        started_at=now,
        accelerator="tcg",
        accelerator_reason="a test",
        seed=seed_of(intent.spec),
        cpus=intent.spec.cpus,
        memory_bytes=intent.spec.memory_bytes,
        publish=intent.spec.publish,
        guarded=intent.spec.ha is HaPolicy.RESTART,
    )


def ended(run: RunInfo, reason: ExitReason, now: datetime) -> RunInfo:
    """The same life at its end."""
    return msgspec.structs.replace(run, exited_at=now, exit_reason=reason)


@dataclass
class Cloud:
    """A platform of the project that every platform has, one image and some nodes."""

    db: Database
    project: ProjectId
    image: ImageId
    agents: list[Agent]

    @property
    def agent(self) -> Agent:
        """The only agent."""
        (agent,) = self.agents
        return agent

    async def create(
        self, name: str = "web", *, principal: Principal = ADMIN, **fields: object
    ) -> AcceptedBatch[VmOut]:
        """Create a machine, by default from the image `tiny`."""
        body = msgspec.convert({"name": name, "image": "tiny", **msgspec.to_builtins(fields)}, VmCreate)
        async with self.db.write() as tx:
            return await vms.create(tx, by("vm:create", principal), body, sealer=SEALER)

    async def converge(self) -> None:
        """Place what waits, and let every agent do its work and report it."""
        await Placer(self.db).once()
        for agent in self.agents:
            await agent.sync()

    async def running(self, name: str = "web", **fields: object) -> VmOut:
        """Create a machine and let it run."""
        await self.create(name, **fields)
        await self.converge()
        return await self.vm(name)

    async def vm(self, ref: str) -> VmOut:
        """Show a machine."""
        async with self.db.read() as rd:
            return await vms.show(rd, by("vm:view"), ref)

    async def verb(self, verb: str, ref: str = "web", *args: object, **kwargs: object) -> Accepted[VmOut]:
        """Ask for `verb` as an administrator."""
        async with self.db.write() as tx:
            return await getattr(vms, verb)(tx, by(f"vm:{verb}"), ref, *args, **kwargs)


async def cloud(database: Database, *, node_count: int = 1, told: NodeFacts | None = None) -> Cloud:
    """Make a platform in an empty database."""
    async with database.write() as tx:
        project = (await projects.resolve(tx, "default")).id
        image = await make_image(tx, project)
        made = [await make_node(tx, f"node-{number}", told=told) for number in range(1, node_count + 1)]
    return Cloud(db=database, project=project, image=image, agents=[Agent(database, node) for node in made])


def at_generation(seen: VmObserved, generation: int, **changes: object) -> VmObserved:
    """The same observation of another intent."""
    return msgspec.structs.replace(seen, generation=generation, **changes)


async def put(tx: Tx, vm: VmId, node: NodeId) -> None:
    """Give a machine that waits a node, whatever the scheduler would say."""
    decision = Decision(node=node, strategy=Strategy.RANDOM, considered=1, fitting=1)
    await node_store.every(tx, [node], lock=True)
    await placements.lock_waiting(tx, [vm])
    await placements.place(tx, [Written(vm=vm, node=node, decision=decision)])

"""Two agents with real QEMU and real lines between them, and a machine that moves while it runs and counts.

It counts on a disk of its own, which is copied, and on a volume in a folder that both nodes reach.

Whose turn it is and what the nodes are told is decided as by the control plane, by the world of `handover`, of which
only the agents and what is between them are real.
"""

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import msgspec

from nacre.agent.crossings import Gate
from nacre.agent.identity import IdentityFiles, SigningKey
from nacre.agent.migration.dial import Dial
from nacre.agent.migration.listener import Listener
from nacre.agent.vms.migrate import Lines
from nacre.control.auth.ca import CertificateAuthority
from nacre.control.auth.sealing import Sealer
from nacre.control.store.migrations import prepare_schema
from nacre.control.wake import Wakes
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.arrivals import ArrivingVolume
from nacre.model.ids import NodeId, PoolId
from nacre.model.images import ImageManifest
from nacre.model.migrations import Outgoing
from nacre.model.moves import MOVE_ENDS
from nacre.model.units import MIB
from nacre.model.vms import Desired, Phase, VmIntent, VmObserved, VmSpec
from nacre.model.volumes import PoolIntent, PoolKind, Tie
from nacre.protocol.messages import NodeIntent
from support import counter
from support.database import opened
from support.handover import NOW, VM, VOLUME, A, B, World
from support.intents import IMAGE
from support.patience import Patience
from support.station import Agent
from support.struck import image, pids_under, prints, ticks

SHARED = PoolId("pool-00000000000000000000000001")
HOMES = (ArrivingVolume(id=VOLUME, pool=SHARED, name="data"),)
PATIENCE_S = 90.0


class Control(World):
    """The control plane, which tells real agents what to do."""

    _manifest: ImageManifest | None = None
    _pools: tuple[PoolIntent, ...] = ()

    def prepare(self, spec: VmSpec, pair: "Pair") -> None:
        """Have a machine that runs on A."""
        tie = Tie(volumes=(VOLUME,))
        self.vm = replace(self.vm, spec=spec, phase=Phase.PENDING, run=None, observed_generation=0, tie=tie)
        self._manifest = pair.manifest
        folder = str(pair.root / "shared")
        self._pools = (PoolIntent(id=SHARED, name="shared", kind=PoolKind.DIRECTORY, path=folder, shared=True),)

    def _intent(self, **changes: object) -> VmIntent:
        return super()._intent(**({} if self._manifest is None else {"image": self._manifest}) | changes)

    def told(self, node: NodeId) -> NodeIntent:
        """What a node would be told now, with the addresses that the other one has said."""
        intent = super().told(node)
        vms = tuple(self._addressed(vm) for vm in intent.vms)
        return msgspec.structs.replace(
            intent,
            vms=vms,
            arrivals=tuple(msgspec.structs.replace(one, volumes=HOMES) for one in intent.arrivals),
            images=(IMAGE,),
            pools=self._pools,
            volumes=tuple(msgspec.structs.replace(one, pool=SHARED) for one in intent.volumes),
            teardown_allowed=True,
        )

    def _addressed(self, vm: VmIntent) -> VmIntent:
        if vm.outgoing is None:
            return vm
        stream = self.streams[vm.outgoing.stream]
        order = Outgoing(stream=stream.id, target=stream.target, addresses=tuple(stream.addresses))
        return msgspec.structs.replace(vm, outgoing=order)


@dataclass
class Pair:
    """Both nodes."""

    root: Path
    identities: Path
    control: Control = field(default_factory=lambda: Control(random.Random(0)))

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.agents: dict[NodeId, Agent] = {}
        self.sent: dict[NodeId, NodeIntent] = {}
        self.seen: dict[NodeId, VmObserved] = {}
        self.struck = ""
        (self.root / "shared").mkdir(mode=0o711)
        for node in (A, B):
            place = self.root / node
            place.mkdir(mode=0o711)
            self.manifest = image(place, 2)
            identity = self.identities / node
            roots = (str(self.root / "shared"),)
            self.agents[node] = Agent(place, "qemu", partial(_wires, identity), bare=True, pool_roots=roots)
        spec = VmSpec(
            image=IMAGE, hypervisor="qemu", memory_bytes=64 * MIB, disk_bytes=counter.SIZE, nics=(), stop_timeout_s=0
        )
        self.control.prepare(spec, self)

    def run(self, so: Callable[[], object], what: str, *, moving: bool = True) -> None:
        """Let everybody work until something is so; who dies comes back at once."""
        patience = Patience(PATIENCE_S)
        while not so():
            assert not patience.is_over(), f"{what}\n{self.control.log}\n{self.control.move}\n{self.tail()}"
            self.turn(moving=moving)

    def turn(self, *, moving: bool = True) -> None:
        """What is told is heard, what follows is decided, what has changed is told."""
        world = self.control
        world.now = NOW + timedelta(seconds=time.monotonic() - self.began)
        for node, agent in self.agents.items():
            lives = agent.hear(0.01)
            self.struck = self.struck or agent.struck
            if not lives:
                agent.start()
                self.sent.pop(node, None)
            seen = agent.vms.get(VM)
            if seen is not None and seen is not self.seen.get(node):
                self.seen[node] = seen
                world.heard(node, seen)
        if moving:
            world.control()
        for node, agent in self.agents.items():
            told = world.told(node)
            if self.sent.get(node) != told:
                self.sent[node] = told
                agent.want(told)

    def settled(self) -> bool:
        """Whether the move has ended and its machine is as it is wanted, and nowhere else."""
        world = self.control
        if world.move.state not in MOVE_ENDS or world.vm.node is None:
            return False
        seen = self.agents[world.vm.node].vms.get(VM)
        here = seen is not None and seen.generation == world.vm.generation and seen.failure is None
        phase = Phase.RUNNING if world.vm.desired is Desired.RUNNING else Phase.STOPPED
        return here and seen is not None and seen.phase is phase and not self.left()

    @property
    def where(self) -> NodeId:
        """The node that the machine belongs to."""
        assert self.control.vm.node is not None
        return self.control.vm.node

    def left(self) -> list[str]:
        """What there is of the machine where it does not belong, besides a copy that is kept on purpose."""
        other = self.root / (B if self.where == A else A)
        own = self.root / self.where
        paths = [other / "vms" / VM, other / "run" / VM, other / "records" / f"{VM}.json"]
        paths += [*(other / "run").glob("*/move.sock*"), *(own / "run").glob("*/move.sock*")]
        found = [str(path) for path in paths if path.exists()]
        return found + [f"process {pid}" for pid in pids_under(other)]

    def printed(self) -> str:
        """What the machine has printed on both nodes."""
        places = [self.root / node / "vms" / VM / "console.log" for node in (A, B)]
        copies = [path / "console.log" for path in (self.root / A / "copies").glob(f"{VM}.*")]
        return "".join(path.read_text(errors="replace") for path in (*copies, *places) if path.exists())

    def counts_on(self, starts: int = 1) -> None:
        """It runs once, goes on counting, has found everything as it left it and was started so often at most."""
        assert len(pids_under(self.root)) == 1
        log = self.root / self.where / "vms" / VM / "console.log"
        before = log.read_text(errors="replace").count(".") if log.exists() else 0
        self.run(
            lambda: log.exists() and log.read_text(errors="replace").count(".") > before + 2,
            "the guest counts",
            moving=False,
        )
        started, astray = prints(self.printed())
        assert (1 <= started <= starts, astray) == (True, False), self.printed()[-300:]

    def tail(self) -> str:
        """The ends of both logs."""
        return "\n".join(f"--- {node}\n{agent.tail()}" for node, agent in self.agents.items() if agent.log.exists())

    def close(self) -> None:
        """Leave nothing behind."""
        for agent in self.agents.values():
            agent.kill()
        for pid in pids_under(self.root):
            if processes.start_time(pid) is not None:
                os.kill(pid, 9)
        shutil.rmtree(self.root, ignore_errors=True)


@contextmanager
def pair(identities: Path) -> Iterator[Pair]:
    """Two nodes, and a machine that counts on the first, whose agents do not run."""
    made = Pair(Path(tempfile.mkdtemp(prefix="nacre-")), identities)
    try:
        for agent in made.agents.values():
            agent.start()
        made.run(lambda: ticks(made.printed()) > 2, "the machine counts", moving=False)
        for agent in made.agents.values():
            agent.stop()
        made.sent.clear()
        made.seen.clear()
        yield made
    finally:
        made.close()


def _wires(identity: Path) -> tuple[Lines, Gate]:
    files = IdentityFiles(identity)
    return Dial(files.load), Listener("127.0.0.1:0", files.load, lambda: ())


def enrolled(root: Path) -> Path:
    """A folder with certificates of one platform for both nodes."""
    asyncio.run(_enrol(root))
    return root


async def _enrol(root: Path) -> None:
    async with opened(f"sqlite:///{root / 'authority.db'}", SystemClock(), Wakes()) as database:
        await prepare_schema(database)
        authority = await CertificateAuthority.open(database, Sealer(bytes(32)), "test.nacre")
        for node in (A, B):
            key, files = SigningKey.generate(), IdentityFiles(root / node)
            async with database.write() as tx:
                issued = await authority.issue_node(tx, key.request_pem(), node, 86400)
            files.save_enrolled(key, issued.certificate_pem, issued.roots_pem, ())

"""One simulated node: an agent without a host. Its identity, link and session are those of a real agent.

Made by `fleet`. What the link asks of it (`link.Handler`) is answered from memory.
"""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import cache

from nacre.agent.consoles import Stored
from nacre.agent.enrolment import ensure_enrolled
from nacre.agent.host import inventory
from nacre.agent.host.conditions import Conditions, Signs
from nacre.agent.hypervisors.registry import GUARD
from nacre.agent.identity import IdentityFiles
from nacre.agent.link import Link
from nacre.agent.observer import Observer
from nacre.agent.outbox import Report
from nacre.agent.simulation import volumes as storage
from nacre.agent.simulation.lease import SimulatedLease
from nacre.agent.simulation.machines import Machines, Physics
from nacre.agent.simulation.options import Options
from nacre.agent.simulation.voice import SilencableDialer, Voice
from nacre.agent.streams import Duplex
from nacre.lib.clock import Clock
from nacre.model.capabilities import BASELINE, Capability, Level, Offered
from nacre.model.ids import NodeId, VmId
from nacre.model.nodes import Condition, HypervisorInfo, NodeFacts, Usage
from nacre.model.units import GIB
from nacre.model.vms import MachineType
from nacre.protocol.join import Join
from nacre.protocol.messages import DesiredState, HeldVm, NodeIntent, StreamKind

_FROST_S = 0.5
"""How often it is looked whether the lease has ended."""
_SYSTEM_BYTES = GIB
"""What an idle host uses."""
_KEEPING = (Capability.DISK_SNAPSHOT, Capability.CHECKPOINT)
_OFFER = (Offered(level=Level.NATIVE, capabilities=tuple(sorted((*BASELINE, *_KEEPING)))),)
"""What simulated hypervisors behave as if they could."""


class SimulatedNode:
    """One node of a simulation. Fulfils `link.Handler`."""

    def __init__(self, options: Options, index: int, clock: Clock, random: Callable[[], float], boot: str) -> None:
        """`boot` names this start of the host."""
        self.name = options.name(index)
        self.id: NodeId | None = None
        self.voice = Voice()
        self._files = IdentityFiles(options.folder / self.name, durable=False)
        self._clock = clock
        self._random = random
        self._facts = facts_of(options, index, boot)
        self._observer = Observer()
        self._lease = SimulatedLease(clock)
        self._machines = Machines(
            Physics(boot_s=options.boot_s, failure_rate=options.failure_rate, random=random),
            clock,
            told=self._observer.changed,
            forgotten=self._observer.forget,
            leased=lambda: self._lease.holds,
        )
        self._frost: asyncio.TimerHandle | None = None
        self._conditions = Conditions(clock)
        self._digest = ""
        self._held: tuple[HeldVm, ...] = ()
        self._link: Link | None = None
        self._intent = NodeIntent()

    @property
    def is_up(self) -> bool:
        """Whether the control plane can be talked to now."""
        return self._link is not None and self._link.is_up and not self.voice.silent

    @property
    def machines(self) -> int:
        """How many machines run here."""
        return len(self._machines.running)

    async def run(self, join: Join | None, joining: asyncio.Semaphore, instance: str) -> None:
        """Join if that is still to be done, then keep the link up until cancelled. Raises NacreError."""
        async with joining:
            identity = await ensure_enrolled(self._files, join, self.name, self._random)
        self.id = identity.node
        dialer = SilencableDialer(identity, self.voice)
        self._link = Link(
            identity, self._files, self, self._clock, self._random, instance, dialer=dialer, lease=self._lease
        )
        self._observer.connect(self._link.observe)
        try:
            await self._link.run()
        finally:
            self._link = None
            if self._frost is not None:
                self._frost.cancel()
            self._machines.power_off()
            self._observer.clear()
            self._digest = ""

    # What the link asks

    async def facts(self) -> NodeFacts:
        """What this host would be."""
        return self._facts

    async def usage(self) -> Usage:
        """What would be in use: by the system, and by the machines that run."""
        running = self._machines.running
        load = 0.05 + sum(run.cpus for run in running) * 0.3
        used = _SYSTEM_BYTES + sum(run.memory_bytes for run in running)
        return Usage(
            load1=round(load * (0.9 + 0.2 * self._random()), 2),
            memory_bytes=min(used, self._facts.capacity.memory_bytes),
            disk_bytes=0,
        )

    def conditions(self) -> tuple[Condition, ...]:
        """What is wrong with this host."""
        refused = len(self._machines.refused)
        if not refused:
            return ()
        capacity = self._facts.capacity
        free = Usage(load1=0.0, memory_bytes=0, disk_bytes=0)
        return self._conditions.update(Signs(capacity=capacity, usage=free, hypervisors=(), refused=refused))

    def digest(self) -> str:
        """The digest of the desired state that is acted on."""
        return self._digest

    def report(self) -> Report:
        """Everything that is here."""
        told = self._intent
        plain = Report(vms=self._observer.all(), held=self._machines.held(), copies=self._machines.copies())
        if not told.volumes and not told.pools:
            return plain
        return replace(
            plain,
            volumes=storage.volumes(told, self._clock.now()),
            pools=storage.pools(told, self._facts.capacity.disk_bytes),
        )

    async def on_desired(self, state: DesiredState) -> None:
        """Take the desired state."""
        if state.intent is None:
            return
        self._digest = state.digest
        storage_is_news = (state.intent.volumes, state.intent.pools) != (self._intent.volumes, self._intent.pools)
        self._intent = state.intent
        self._lease.told(state.intent)
        self._machines.want(state.intent)
        if self._lease.is_needed and self._frost is None:
            self._look_at_lease()
        held = self._machines.held()
        if held != self._held or state.intent.retired or state.intent.discard or storage_is_news:
            self._held = held
            if self._link is not None:
                self._link.report()

    def _look_at_lease(self) -> None:
        """Freeze and thaw in time, for as long as anything here needs a lease."""
        self._machines.look_at_lease()
        needed = self._lease.is_needed
        self._frost = asyncio.get_running_loop().call_later(_FROST_S, self._look_at_lease) if needed else None

    def open_stream(self, kind: StreamKind, vm: VmId, tail_bytes: int) -> AbstractAsyncContextManager[Duplex]:
        """Say that there is no console."""
        text = f"{vm} is a simulated machine of the node {self.name} and has no {kind}\r\n".encode()
        return nullcontext(Stored(text[-tail_bytes:] if tail_bytes > 0 else b""))


_agent_version = cache(inventory.agent_version)


def facts_of(options: Options, index: int, boot: str) -> NodeFacts:
    """Describe a host that is not there."""
    region, zone = options.place(index)
    return NodeFacts(
        hostname=options.name(index),
        os="Simulated",
        kernel="simulated",
        architecture="x86_64",
        agent_version=_agent_version(),
        boot_id=boot,
        capacity=options.capacity,
        hypervisors=tuple(
            HypervisorInfo(
                name=name,
                available=True,
                version="simulated",
                accelerator="none",
                machines=tuple(machine.value for machine in MachineType),
                abilities=(GUARD,),
                offer=_OFFER,
            )
            for name in options.hypervisors
        ),
        labels=options.labels,
        region=region,
        zone=zone,
    )

"""The rest of the agent as the link sees it (`link.Handler`): facts, desired states, streams. Wired by `main`."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import structlog

from nacre.agent import guest_streams
from nacre.agent.consoles import Consoles
from nacre.agent.executor import Executor
from nacre.agent.exports import Exports
from nacre.agent.host import inventory
from nacre.agent.host.conditions import Conditions, Signs
from nacre.agent.host.files import text
from nacre.agent.host.network import NetworkWatch, Running, leads_here, running_interfaces
from nacre.agent.hypervisors.abilities import CanOffer
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.images.cache import ImageCache
from nacre.agent.lease import Lease
from nacre.agent.meters.meter import Meter
from nacre.agent.observer import Observer
from nacre.agent.outbox import Report
from nacre.agent.records import Desired, RecordStore
from nacre.agent.settings import Settings
from nacre.agent.streams import Duplex
from nacre.agent.volume_executor import VolumeExecutor
from nacre.lib.clock import Clock
from nacre.lib.threads import in_thread
from nacre.model.capabilities import told
from nacre.model.copies import CopyRef, RetiredVm
from nacre.model.ids import VmId, looks_like_id
from nacre.model.nodes import Condition, HypervisorInfo, NodeFacts, Usage
from nacre.model.volumes import PoolObserved
from nacre.protocol.messages import SINCE_EVER, DesiredState, HeldVm, NodeIntent, StreamKind

log = structlog.get_logger()

_WORTH_TELLING = 100


def news(before: tuple[PoolObserved, ...], now: tuple[PoolObserved, ...]) -> bool:
    """Whether something about pools is worth telling. Sizes are when they have changed by a hundredth. Pure."""
    without = {"used_bytes": 0, "capacity_bytes": 0}
    bare = [tuple(msgspec.structs.replace(pool, **without) for pool in some) for some in (before, now)]
    if bare[0] != bare[1]:
        return True
    pairs = zip(before, now, strict=True)
    return any(
        max(abs(old.used_bytes - new.used_bytes), abs(old.capacity_bytes - new.capacity_bytes)) * _WORTH_TELLING
        > new.capacity_bytes
        for old, new in pairs
    )


class Reporting:
    """Fulfils `link.Handler`."""

    def __init__(
        self,
        *,
        settings: Settings,
        records: RecordStore,
        executor: Executor,
        observer: Observer,
        images: ImageCache,
        consoles: Consoles,
        hypervisors: dict[str, Hypervisor],
        clock: Clock,
        exports: Exports,
        meter: Meter | None = None,
        lease: Lease | None = None,
        volumes: VolumeExecutor | None = None,
        root: Path = Path("/"),
        running: Running = running_interfaces,
    ) -> None:
        """`root` is where the host's /proc and /sys are found, `running` tells which interfaces run."""
        self._settings = settings
        self._records = records
        self._executor = executor
        self._observer = observer
        self._images = images
        self._consoles = consoles
        self._hypervisors = hypervisors
        self._exports = exports
        self._lease = lease
        self._volumes = volumes
        self._pools: tuple[PoolObserved, ...] = ()
        self._meter = meter or Meter(settings.data, lambda: executor.machines, clock)
        self._conditions = Conditions(clock)
        self._inventory = inventory.HostInventory(clock, root)
        self._network = NetworkWatch(root, running)
        self._off_network = ""
        self._digest = ""
        self._facts: NodeFacts | None = None
        self._usage: Usage | None = None
        self._held: tuple[HeldVm, ...] = ()
        self._void: tuple[tuple[RetiredVm, ...], tuple[CopyRef, ...]] = ((), ())
        self.report_wanted = asyncio.Event()
        """Set when there is something to tell that only a complete report can."""

    def restore(self) -> None:
        """Go on with the desired state of before, until the control plane sends another."""
        desired = self._records.desired()
        if desired is not None:
            self._digest = desired.digest
            self._take(desired.intent)

    async def facts(self) -> NodeFacts:
        """What this host is."""
        probed = [await _told(driver) for driver in self._hypervisors.values()]
        settings = self._settings
        self._facts = await in_thread(
            inventory.facts,
            settings.data,
            probed,
            labels=settings.labels,
            region=settings.region,
            zone=settings.zone,
            made_of=await in_thread(self._inventory.current),
        )
        carried = tuple(kind.value for kind in StreamKind if kind not in SINCE_EVER)
        self._facts = msgspec.structs.replace(self._facts, streams=carried)
        return self._facts

    async def usage(self) -> Usage:
        """What is in use on this host now."""
        self._usage = await in_thread(inventory.usage, self._settings.data)
        self._off_network = await in_thread(self._network_trouble)
        if self._volumes is not None:
            pools = await self._volumes.pools()
            if news(self._pools, pools):
                self._pools = pools
                self.report_wanted.set()
        return self._usage

    def conditions(self) -> tuple[Condition, ...]:
        """What is wrong with this host now, by the facts and the usage that were asked for last."""
        if self._facts is None or self._usage is None:
            return ()
        return self._conditions.update(
            Signs(
                capacity=self._facts.capacity,
                usage=self._usage,
                hypervisors=self._facts.hypervisors,
                network=self._off_network,
                refused=len(self._executor.refused) + (len(self._volumes.refused) if self._volumes else 0),
                tenures=self._lease.went_back if self._lease is not None else None,
            )
        )

    def digest(self) -> str:
        """The digest of the desired state that is acted on."""
        return self._digest

    def report(self) -> Report:
        """Everything that is here. Machines that are held are in it twice: as they are, and as held."""
        return Report(
            vms=self._observer.all(),
            held=self._executor.held(),
            images=self._images.cached(),
            copies=self._executor.copies(),
            volumes=self._volumes.observed() if self._volumes is not None else (),
            pools=self._pools,
        )

    async def on_desired(self, state: DesiredState) -> None:
        """Take the desired state; returns once it is safe on disk."""
        if state.intent is None:
            return
        await in_thread(self._records.save_desired, Desired(digest=state.digest, intent=state.intent))
        self._digest = state.digest
        self._take(state.intent)
        held = self._executor.held()
        if held != self._held:
            self._held = held
            self.report_wanted.set()
            if held:
                log.warning("machines.held", vms=[vm.id for vm in held], next="they are left alone")

    def _take(self, intent: NodeIntent) -> None:
        """Work towards a desired state that is on disk, with the leases that it takes written first."""
        if self._lease is not None:
            self._lease.told(intent)
        if self._volumes is not None:
            self._volumes.want(intent)
        self._executor.want(intent)
        void = (intent.retired, intent.discard)
        if void != self._void:
            self._void = void
            self.report_wanted.set()  # of what there is nothing, nothing else tells

    def open_stream(self, kind: StreamKind, vm: VmId, tail_bytes: int) -> AbstractAsyncContextManager[Duplex]:
        """Open a console or its log, or a way into a guest."""
        match kind:
            case StreamKind.CONSOLE:
                return self._consoles.viewer(vm, tail_bytes)
            case StreamKind.CONSOLE_LOG:
                return self._consoles.stored(self._log_of(vm), tail_bytes)
            case StreamKind.EXEC:
                return guest_streams.command(self._executor.machines.get(vm))
            case StreamKind.DISPLAY:
                return guest_streams.screen(self._executor.machines.get(vm))
            case StreamKind.METRICS:
                return guest_streams.measured(self._meter, vm)
            case StreamKind.EXPORT:
                return self._exports.opened(vm)

    def _network_trouble(self) -> str:
        """Say why this host is off the network. One whose control plane is on it too is of use without any."""
        gateways = text(self._settings.data / "identity" / "gateways").split()
        return "" if gateways and all(map(leads_here, gateways)) else self._network.trouble()

    def _log_of(self, vm: VmId) -> Path:
        known = vm if looks_like_id(vm) else "unknown"  # anything else could be a way out of the folder
        return self._settings.data / "vms" / known / "console.log"


async def _told(driver: Hypervisor) -> HypervisorInfo:
    """Say of a hypervisor whether it works, and what it can do."""
    info = await driver.probe()
    if not info.available or not isinstance(driver, CanOffer):
        return info
    try:
        offer = await driver.offer()
    except DriverError as error:  # it has gone since it was probed
        return HypervisorInfo(name=info.name, available=False, reason=f"{error.message}; {error.hint}")
    return msgspec.structs.replace(info, offer=told(offer))

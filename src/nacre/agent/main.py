"""`nacre-agent`: the agent as a program. Everything is wired here by hand.

SIGTERM and SIGINT make it leave; guests run on. Exit codes: 0 after a signal, 1 when something broke, 2 for settings
that cannot be used.
"""

import argparse
import asyncio
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
import uvloop

from nacre.agent import checking, places
from nacre.agent.consoles import Consoles
from nacre.agent.enrolment import ensure_enrolled
from nacre.agent.executor import Executor
from nacre.agent.exports import Exports
from nacre.agent.host import cgroups, inventory, users
from nacre.agent.host.inventory_devices import reachable_addresses
from nacre.agent.host.proof import AccelerationProof
from nacre.agent.host.users import Users
from nacre.agent.hypervisors import registry, traffic
from nacre.agent.identity import IdentityFiles
from nacre.agent.images.cache import ImageCache
from nacre.agent.instance import new_instance
from nacre.agent.joining import join_of
from nacre.agent.lease import Lease
from nacre.agent.link import Link
from nacre.agent.meters import exposition
from nacre.agent.meters.meter import Meter
from nacre.agent.metrics import Metrics, Safety
from nacre.agent.migration.dial import Dial
from nacre.agent.migration.listener import Listener
from nacre.agent.observer import Observer
from nacre.agent.records import RecordStore
from nacre.agent.reporting import Reporting
from nacre.agent.settings import Confine, Settings, load
from nacre.agent.simulation.fleet import Fleet
from nacre.agent.simulation.options import HELP as SIMULATION_HELP
from nacre.agent.storage.directory import DirectoryStorage
from nacre.agent.vms.host import Host
from nacre.agent.volume_executor import VolumeExecutor
from nacre.agent.volumes.pools import Pools
from nacre.errors import InvalidInputError, NacreError, UnavailableError
from nacre.lib import logs
from nacre.lib.clock import SystemClock
from nacre.model.ids import ImageId
from nacre.model.images import Role
from nacre.model.vms import VmObserved
from nacre.model.volumes import VolumeObserved

SECRET_SETTINGS = frozenset({"join"})
"""Not taken from the command line, where every user of the machine can read it."""

log = structlog.get_logger()

GIVE_UP_S = 1.5
"""After this the program leaves, whatever still hangs: guests and records are safe at any moment."""
_LOOK_AGAIN_S = 30.0


def main() -> None:
    """Run the program. Called by the `nacre-agent` script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run the program with these arguments and return its exit code."""
    try:
        if checking.wanted(arguments):
            return checking.run(arguments, read_settings)
        settings = read_settings(arguments)
        places.prepare(settings)
    except NacreError as error:
        _complain(error)
        return 2
    logs.set_up(settings.log_level, program="nacre-agent")
    try:
        with places.held(settings), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(simulated(settings) if settings.simulate else Agent(settings).run())
    except NacreError as error:
        _complain(error)
        return 1
    except BaseExceptionGroup as group:
        expected = group.subgroup(NacreError)
        if expected is None:
            log.error("agent.failed", exc_info=group)  # noqa: TRY400 - the group is the traceback
            return 1
        _complain(_first(expected))
        return 1
    return 0


def read_settings(arguments: Sequence[str]) -> Settings:
    """Return the settings of a command line, the environment and files. Raises InvalidInputError."""
    parser = argparse.ArgumentParser(
        prog="nacre-agent",
        description="The agent of Nacre, one per node.",
        epilog="`nacre-agent check` says whether this host can be a node and what to put right; --json for programs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings in TOML; else the system's and ./agent.toml"
    )
    for name in Settings.__struct_fields__:
        if name not in SECRET_SETTINGS:
            flag, text = f"--{name.replace('_', '-')}", SIMULATION_HELP.get(name)
            parser.add_argument(flag, metavar="VALUE", default=None, help=text)
    given: dict[str, object] = vars(parser.parse_args(arguments))
    config = given.pop("config")
    flags = {name: str(value) for name, value in given.items() if value is not None}
    return load(config if isinstance(config, Path) else None, os.environ, flags)


async def simulated(settings: Settings) -> None:
    """Be a fleet of simulated nodes until SIGTERM or SIGINT."""
    fleet = asyncio.create_task(Fleet(settings).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, fleet.cancel)
    await asyncio.wait({fleet})
    if not fleet.cancelled():
        fleet.result()


class Agent:
    """One agent and all its parts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clock = SystemClock()
        self._random = random.SystemRandom().random
        self._link: Link | None = None
        self._files = IdentityFiles(settings.data / "identity")
        self._observer = Observer()
        self._consoles = Consoles()
        self._records = RecordStore(settings.data)
        state = settings.run_base / "hypervisors"
        self._drivers = {
            name: registry.load(name, state, **settings.driver_options(name)) for name in settings.hypervisors
        }
        self._proof = AccelerationProof(self._drivers.values())
        self._images = ImageCache(
            settings.data / "images",
            limit_bytes=settings.image_cache_bytes,
            fetch=self._fetch,
            needed=self._needed_images,
        )
        self._metrics = Metrics(
            self._observer,
            link_up=lambda: self._link is not None and self._link.is_up,
            cache_bytes=self._images.size,
            safety=self._safety,
            machines=lambda: exposition.lines(self._meter.latest(), self._meter.names()),
        )
        self._pools = Pools(settings.data, clock=self._clock, roots=settings.pool_roots, random=self._random)
        self._listener = Listener(settings.migration_listen, self._files.load, reachable_addresses)
        host = self._host()
        self._executor = Executor(
            host,
            self._consoles,
            lines=Dial(self._files.load),
            gate=self._listener,
            told=self._vm_changed,
            forgotten=self._observer.forget,
            counted=self._metrics.step,
            copied=lambda: self._reporting.report_wanted.set(),  # noqa: PLW0108  # it is made further down
        )
        self._volumes = VolumeExecutor(
            self._pools,
            self._images,
            self._executor,
            clock=self._clock,
            random=self._random,
            told=self._volume_changed,
            forgotten=lambda _volume: self._reporting.report_wanted.set(),
            counted=self._metrics.step,
        )
        self._meter = Meter(settings.data, lambda: self._executor.machines, self._clock)
        self._exports = Exports(host, ended=self._executor.layers_freed)
        self._lease = Lease(settings.run, self._clock, came=self._executor.leased)
        self._reporting = Reporting(
            settings=settings,
            records=self._records,
            executor=self._executor,
            observer=self._observer,
            images=self._images,
            consoles=self._consoles,
            hypervisors=self._drivers,
            clock=self._clock,
            meter=self._meter,
            lease=self._lease,
            volumes=self._volumes,
            exports=self._exports,
        )

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. Raises when a part of the program breaks."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, _stop, stopping)
        log.info("agent.started", data_dir=str(self._settings.data), version=inventory.agent_version())
        async with self._metrics.served(self._settings.metrics_listen), asyncio.TaskGroup() as group:
            working = group.create_task(self._work(), name="agent")
            await stopping.wait()
            working.cancel()
        log.info("agent.stopped", next="guests run on")

    async def _work(self) -> None:
        try:
            await traffic.sweep()
            await self._exports.begin()
            await self._volumes.begin()
            await self._executor.begin()
            self._reporting.restore()
            self._prove()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._connect(), name="link")
                group.create_task(self._look_again(), name="look again")
                group.create_task(self._report(), name="report")
                group.create_task(self._meter.run(), name="meter")
        finally:
            await self._proof.close()
            await self._volumes.close()
            await self._executor.close()
            await self._listener.close()
            self._consoles.close()

    async def _connect(self) -> None:
        """Enrol if that is still to be done, then keep the link up."""
        name = self._settings.node_name or socket.gethostname()
        join = await join_of(self._settings, lambda: self._files.load() is not None)
        identity = await ensure_enrolled(self._files, join, name, self._random)
        instance = new_instance(self._settings.data, self._clock)
        self._link = Link(
            identity, self._files, self._reporting, self._clock, self._random, instance, lease=self._lease
        )
        self._observer.connect(self._link.observe)
        await self._link.run()

    async def _look_again(self) -> None:
        """Look at every machine now and then although nothing rang: a lost bell costs time, nothing else."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S * (0.75 + 0.5 * self._random()))
            self._executor.look_again()
            self._volumes.look_again()

    def _vm_changed(self, vm: VmObserved) -> None:
        self._observer.changed(vm)
        if vm.run is not None:
            self._volumes.look(vm.run.volumes)

    def _volume_changed(self, volume: VolumeObserved) -> None:
        if self._link is not None:
            self._link.observe_volume(volume)

    def _needed_images(self) -> frozenset[ImageId] | None:
        needed = self._executor.needed_images()
        return None if needed is None else needed | self._volumes.images()

    async def _report(self) -> None:
        while True:
            await self._reporting.report_wanted.wait()
            self._reporting.report_wanted.clear()
            if self._link is not None:
                self._link.report()

    def _safety(self) -> Safety:
        copies = [copy for copy in self._executor.copies() if copy.exists]
        return Safety(
            lease_s=self._lease.left_s,
            guards=self._executor.guards,
            frozen=self._executor.frozen,
            copies=len(copies),
            copies_bytes=sum(copy.size_bytes for copy in copies),
        )

    def _prove(self) -> None:
        kernel = Path(self._settings.probe_kernel) if self._settings.probe_kernel else inventory.host_kernel()
        if kernel is not None:
            self._proof.begin(kernel)

    async def _fetch(self, image: ImageId, role: Role, offset: int) -> AsyncIterator[bytes]:
        if self._link is None:
            raise UnavailableError(
                "control_plane_unreachable",
                "the image is not on the node yet and the control plane cannot be reached",
                hint="it is fetched by itself when the control plane is back",
            )
        async for chunk in self._link.fetch_artifact(image, role, offset):
            yield chunk

    def _host(self) -> Host:
        layout = cgroups.find()
        if layout.reason:
            log.warning("cgroups.unavailable", reason=layout.reason, next="machines run without a control group")
        return Host(
            directory=self._settings.data,
            run_directory=self._settings.run,
            records=self._records,
            images=self._images,
            storage=DirectoryStorage(),
            pools=self._pools,
            hypervisors=self._drivers,
            cgroups=cgroups.Cgroups(layout),
            proof=self._proof,
            clock=self._clock,
            random=self._random,
            users=_users(self._settings),
        )


def _users(settings: Settings) -> Users | None:
    """Return whom hypervisors run as; None if as the agent. Raises InvalidInputError if that is forbidden."""
    if settings.confine is Confine.NEVER:
        return None
    why = users.obstacle(settings.data, settings.run_base, *map(Path, settings.pool_roots))
    if not why:
        pools = tuple(Path(root) for root in settings.pool_roots)
        folders = (settings.data, settings.run_base, *pools)
        return Users(settings.users, folders, required=settings.confine is Confine.ALWAYS)
    if settings.confine is Confine.ALWAYS:
        raise InvalidInputError(
            "cannot_confine",
            f"hypervisors cannot run as users of their own: {why}",
            hint="put that right, or set confine to auto",
            field="confine",
        )
    log.warning("hypervisors.unconfined", reason=why, next="they run as the agent does")
    return None


def _stop(stopping: asyncio.Event) -> None:
    """Begin to leave, and see to it that nothing can hold that up."""
    if not stopping.is_set():
        stopping.set()
        timer = threading.Timer(GIVE_UP_S, os._exit, [0])
        timer.daemon = True
        timer.start()


def _first(group: BaseExceptionGroup[NacreError]) -> NacreError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _complain(error: NacreError) -> None:
    sys.stderr.write(f"nacre-agent: {error.message}\n  {error.hint}\n")


if __name__ == "__main__":
    main()

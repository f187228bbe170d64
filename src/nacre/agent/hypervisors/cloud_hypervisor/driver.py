"""The driver called `cloud-hypervisor`: what is installed, starting, adopting. One running machine is a `guest`."""

import asyncio
import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import structlog

from nacre.agent.hypervisors import guarding, registry
from nacre.agent.hypervisors.base import Guest, Handle
from nacre.agent.hypervisors.cloud_hypervisor import api as calls
from nacre.agent.hypervisors.cloud_hypervisor import (
    checkpoints,
    config,
    devices,
    events,
    installed,
    moving,
    offer,
    paths,
    plugs,
    proof,
)
from nacre.agent.hypervisors.cloud_hypervisor.api import Api, silent
from nacre.agent.hypervisors.cloud_hypervisor.consoles import Console
from nacre.agent.hypervisors.cloud_hypervisor.guest import CloudHypervisorGuest, clean_up
from nacre.agent.hypervisors.cloud_hypervisor.installed import Installed
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import FirmwareFiles, Launch
from nacre.agent.hypervisors.lifecycle import take_hold
from nacre.agent.hypervisors.proofs import Verdicts
from nacre.lib import processes
from nacre.lib.processes import Process
from nacre.lib.threads import in_thread
from nacre.model.capabilities import Offer
from nacre.model.convergence import FailureClass
from nacre.model.hardware import ConsoleMode
from nacre.model.nodes import HypervisorInfo

BINARY = "cloud-hypervisor"
KVM = Path("/dev/kvm")

_START_S = 20.0
_ANSWER_S = 3.0
_BOOT_S = 60.0
_RESTORE_S = 3600.0
_POLL_S = 0.005
_LOG_LIMIT = 256 << 10

log = structlog.get_logger()


class CloudHypervisor:
    """Fulfils `base.Hypervisor`, CanGuard, CanProbeAcceleration, CanRestore, CanReceive and CanOffer."""

    def __init__(self, *, state_directory: Path, binary: str = BINARY, firmware: str = "", kvm: Path = KVM) -> None:
        """`firmware` is a file with a UEFI made for Cloud Hypervisor, for guests without a kernel."""
        self._binary = binary
        self._firmware = Path(firmware) if firmware else None
        self._kvm = kvm
        self._verdicts = Verdicts(state_directory, kvm)
        self._proving = asyncio.Lock()
        self._installed: Installed | None = None

    @property
    def name(self) -> str:
        """As in `VmSpec.hypervisor`."""
        return "cloud-hypervisor"

    async def probe(self) -> HypervisorInfo:
        """What works here. A missing or broken Cloud Hypervisor is an answer, not an error."""
        try:
            found = await self._find()
        except DriverError as error:
            return HypervisorInfo(name=self.name, available=False, reason=f"{error.message}; {error.hint}")
        if why := self._obstacle(found):
            return HypervisorInfo(name=self.name, available=False, version=found.version, reason=why)
        unproven = "" if self._verdicts.find(found.version) else "KVM is not proven on this node yet"
        return HypervisorInfo(
            name=self.name,
            available=True,
            reason="; ".join(filter(None, (unproven, self.guard_obstacle()))),
            version=found.version,
            accelerator="kvm",
            machines=config.MACHINES,
            abilities=registry.abilities(self),
        )

    def uefi(self, *, secure_boot: bool) -> FirmwareFiles | None:
        """Return the firmware that the agent was told of. It keeps no variables, so it has no secure boot."""
        if secure_boot or self._firmware is None or not self._firmware.is_file():
            return None
        return FirmwareFiles(code=self._firmware)

    def guard_obstacle(self) -> str:
        """Cloud Hypervisor is a process like all others."""
        return guarding.obstacle()

    async def prove_acceleration(self, kernel: Path) -> None:
        """Boot `kernel` under KVM, unless that was done in today's circumstances. Raises DriverError."""
        found = await self._find()
        async with self._proving:
            if self._verdicts.find(found.version) or not os.access(self._kvm, os.R_OK | os.W_OK):
                return
            reason = await proof.prove(found.path, kernel)
            self._verdicts.save(found.version, reason)
            log.info("hypervisor.acceleration_proven", name="kvm", works=not reason, reason=reason)

    async def offer(self) -> Offer:
        """Say what it can do here. Raises DriverError if it is not there."""
        await self._find()
        return offer.offer(guard_obstacle=self.guard_obstacle(), firmware=self.uefi(secure_boot=False) is not None)

    async def start(self, launch: Launch) -> Guest:
        """Start a machine; returns when it has booted. Raises DriverError and leaves no process behind."""
        body = config.build(launch)
        found = await self._find()
        process, api = await self._spawn(launch, found)
        async with _undone(launch, process, api) as begun:
            await api.put("vm.create", body, timeout=_BOOT_S)
            for nic, fields in config.with_descriptors(launch):
                with plugs.opened(nic) as descriptors:
                    await api.put("vm.add-net", fields, timeout=_BOOT_S, descriptors=descriptors)
            if devices.has_keeper(launch.devices):
                begun.console = await Console.begin(launch, process)
            await api.put("vm.boot", timeout=_BOOT_S)
        return CloudHypervisorGuest(launch, _handle(process, found), process, begun.console)

    async def restore(self, launch: Launch, directory: Path) -> Guest:
        """See `CanRestore`."""
        body = config.for_restoring(checkpoints.saved(directory), launch)
        found = await self._find()
        process, api = await self._spawn(launch, found)
        async with _undone(launch, process, api) as begun:
            source = await in_thread(checkpoints.lent, launch, directory, body)
            if devices.has_keeper(launch.devices):
                begun.console = await Console.begin(launch, process)
            await api.put("vm.restore", {"source_url": f"file://{source}", "resume": False}, timeout=_RESTORE_S)
            shutil.rmtree(source)
        return CloudHypervisorGuest(launch, _handle(process, found), process, begun.console)

    async def receive(self, launch: Launch, socket: Path) -> Guest:
        """See `CanReceive`. While it waits, Cloud Hypervisor answers nothing else."""
        config.build(launch)  # the configuration comes with the machine; what cannot be is refused before
        found = await self._find()
        process, api = await self._spawn(launch, found)
        async with _undone(launch, process, api) as begun:
            if devices.has_keeper(launch.devices):
                begun.console = await Console.begin(launch, process)
            arriving = asyncio.create_task(_receive(launch, socket))
            try:
                await _listening(launch, arriving)
            except BaseException:
                arriving.cancel()
                await asyncio.gather(arriving, return_exceptions=True)
                raise
        return CloudHypervisorGuest(launch, _handle(process, found), process, begun.console, arriving=arriving)

    async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
        """Take over a machine that outlived the agent; None if there is none. Raises DriverError when in doubt."""
        if handle is not None:
            process = take_hold(handle)
        else:
            listening = await processes.listener(launch.run_directory / paths.API_SOCKET)
            process = listening and Process.open(listening.pid, listening.start_time)
        if process is None:
            return None
        try:
            guest = await self._taken_over(launch, handle, process)
        except BaseException:
            process.close()
            raise
        if guest is None:
            process.close()
        return guest

    async def _taken_over(self, launch: Launch, handle: Handle | None, process: Process) -> Guest | None:
        past = events.read(launch.run_directory / paths.EVENTS)
        story = events.Story()
        for event in past:
            story.hear(event)
        held_by = guarding.guard_of(process)
        if guarding.is_frozen(process, held_by):  # it cannot say who it is
            if handle is None and not guarding.is_for(held_by, launch):
                return None
        else:
            seen = await _look(launch, process)
            if seen.ours is False or (seen.ours is None and handle is None and not story.awaits_guest):
                return None
            if not (seen.ran or story.booted) and (seen.ours or story.awaits_guest):
                # The agent died before the start was finished, or while the machine was on its way here.
                await _abandon(launch, process, None)
                return None
        console = None
        if any((launch.run_directory / name).exists() for name in (paths.SERIAL_SOCKET, paths.CONSOLE_SOCKET)):
            console = await Console.find(launch, process)
        handle = handle or _handle(process, await self._find())
        return CloudHypervisorGuest(launch, handle, process, console, past=len(past))

    def _obstacle(self, found: Installed) -> str:
        """Say why no machine can run here; empty if one may."""
        if not self._kvm.exists():
            return "it needs KVM, and the node has none"
        if not os.access(self._kvm, os.R_OK | os.W_OK):
            return f"it needs KVM, and the agent may not use {self._kvm}; add its user to the group of the device"
        return self._disproof(found)

    def _disproof(self, found: Installed) -> str:
        """Say why KVM runs no guests here, if that was shown."""
        verdict = self._verdicts.find(found.version)
        return f"it needs KVM, which does not work on the node: {verdict.reason}" if verdict and verdict.reason else ""

    async def _spawn(self, launch: Launch, found: Installed) -> tuple[Process, Api]:
        """Start the process in a run directory that is ready for it, and return when it answers."""
        if why := self._disproof(found):  # it would seem to start; what else is amiss it says itself
            raise DriverError(
                "accelerator_failed",
                f"Cloud Hypervisor cannot run machines: {why}",
                hint="use the hypervisor qemu, which does without, or another node",
                failure_class=FailureClass.BLOCKED,
            )
        output = launch.directory / paths.HYPERVISOR_LOG
        begin = _shorten(output)
        clean_up(launch)
        words = config.command_line(found.path, launch.run_directory)
        try:
            for name, target in paths.links(launch).items():
                (launch.run_directory / name).symlink_to(target)
            _give(launch)
            process = await guarding.spawn(
                words, lease=launch.lease, output=output, inherit=[launch.lock_fd], user=launch.confinement
            )
        except OSError as error:
            clean_up(launch)
            raise installed.unavailable(f"Cloud Hypervisor cannot be run: {error.strerror}") from error
        except BaseException:
            clean_up(launch)
            raise
        api = Api(launch.run_directory / paths.API_SOCKET)
        async with _undone(launch, process, api):
            await _answering(api, process, output, begin)
        return process, api

    async def _find(self) -> Installed:
        """Ask the installed binary what it is, again only when the file changed. Raises DriverError."""
        self._installed = await installed.find(self._binary, self._installed)
        return self._installed


def _give(launch: Launch) -> None:
    """Give the process's user what it could not make itself: a log in a folder that stays ours. Raises OSError."""
    if launch.confinement is not None and launch.devices.console is ConsoleMode.FILE:
        path = launch.directory / paths.VIRTIO_LOG
        path.touch(mode=0o600)
        os.chown(path, launch.confinement.uid, launch.confinement.gid, follow_symlinks=False)


@dataclass
class _Begun:
    console: Console | None = None


@contextlib.asynccontextmanager
async def _undone(launch: Launch, process: Process, api: Api):
    """End everything again if what follows fails, and hang up in any case."""
    begun = _Begun()
    try:
        yield begun
    except BaseException:
        await asyncio.shield(_abandon(launch, process, begun.console))
        raise
    finally:
        await api.close()


async def _abandon(launch: Launch, process: Process, console: Console | None) -> None:
    await process.kill()
    process.close()
    if console is not None:
        await console.end(1.0)
    clean_up(launch)


@dataclass(frozen=True)
class _Seen:
    """What a process says of itself. None: it does not say."""

    ours: bool | None = None
    ran: bool | None = None


async def _look(launch: Launch, process: Process) -> _Seen:
    """Ask a process whose machine it has. Raises DriverError if another one answers in its place."""
    api = Api(launch.run_directory / paths.API_SOCKET)
    try:
        peer = await api.peer(_ANSWER_S)
        if peer is None or (peer.pid, peer.start_time) != (process.pid, process.start_time):
            raise _socket_of_another()
        info = await api.ask("vm.info", timeout=_ANSWER_S)
    except OSError:
        return _Seen()
    except DriverError as error:
        if error.code == calls.WRONG_STATE:  # it has no machine yet, and listens where only ours would
            return _Seen(ours=True, ran=False)
        if error.code == calls.SILENT:
            return _Seen()
        raise
    finally:
        await api.close()
    platform = plugs.part(plugs.part(info, "config"), "platform")
    ours = platform.get("system_uuid", platform.get("uuid")) == config.uuid_of(launch.vm)
    return _Seen(ours=ours, ran=info.get("state") in {"Running", "Paused", "BreakPoint"})


async def _answering(api: Api, process: Process, output: Path, begin: int) -> None:
    """Wait until the API answers or the process ends, whichever comes first."""
    deadline = asyncio.get_running_loop().time() + _START_S
    while True:
        with contextlib.suppress(OSError, DriverError):  # it does not listen yet
            peer = await api.peer(_ANSWER_S)
            if peer is not None and peer.pid == process.pid:
                await api.ask("vmm.ping", timeout=_ANSWER_S)
                return
            await api.close()
        if await process.wait(_POLL_S):
            raise calls.start_failure(_since(output, begin), process.exit_status)
        if asyncio.get_running_loop().time() > deadline:
            raise silent()


async def _receive(launch: Launch, socket: Path) -> None:
    """Take a machine in; returns when it has arrived. Raises DriverError."""
    api = Api(launch.run_directory / paths.API_SOCKET)
    try:
        await api.put("vm.receive-migration", {"receiver_url": f"unix:{socket}"}, timeout=moving.RECEIVE_S)
    finally:
        await api.close()


async def _listening(launch: Launch, arriving: asyncio.Task[None]) -> None:
    """Return when the process listens for a machine. Raises DriverError."""
    deadline = asyncio.get_running_loop().time() + _START_S
    while not any(
        event.name == "migration-receive-ready" for event in events.read(launch.run_directory / paths.EVENTS)
    ):
        if arriving.done():
            await arriving
        if asyncio.get_running_loop().time() > deadline:
            raise silent()
        await asyncio.wait({arriving}, timeout=_POLL_S)


def _handle(process: Process, found: Installed) -> Handle:
    return Handle(
        pid=process.pid,
        start_time=process.start_time,
        boot_id=processes.boot_id(),
        accelerator="kvm",
        details={"cloud-hypervisor": found.version},
    )


def _shorten(path: Path) -> int:
    """Keep the end of a log that has grown over many lives, and return its size. Nothing writes to it now."""
    if not path.exists():
        return 0
    if path.stat().st_size > _LOG_LIMIT:
        path.write_bytes(path.read_bytes()[-_LOG_LIMIT // 4 :])
    return path.stat().st_size


def _since(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(_LOG_LIMIT).decode(errors="replace")


def _socket_of_another() -> DriverError:
    return DriverError(
        "socket_of_another",
        "the machine's process lives, but another process answers on its API socket",
        hint="look for a second Cloud Hypervisor with the same socket on the node, and end the one that is wrong",
        failure_class=FailureClass.BLOCKED,
    )

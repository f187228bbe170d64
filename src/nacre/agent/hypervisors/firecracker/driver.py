"""The driver called `firecracker`: what is installed, starting, restoring, adopting. A running machine is a `guest`."""

import asyncio
import contextlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from nacre.agent.hypervisors import guarding, registry
from nacre.agent.hypervisors.base import Guest, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker import checkpoints, config, ids, offer, proof, refusals, releases
from nacre.agent.hypervisors.firecracker.api import Api
from nacre.agent.hypervisors.firecracker.config import Placed, Request
from nacre.agent.hypervisors.firecracker.guest import FirecrackerGuest, ended_well
from nacre.agent.hypervisors.firecracker.jail import Jail
from nacre.agent.hypervisors.firecracker.places import Places
from nacre.agent.hypervisors.firecracker.releases import Release, knows
from nacre.agent.hypervisors.firecracker.scruples import refusal
from nacre.agent.hypervisors.launch import Launch
from nacre.agent.hypervisors.lifecycle import take_hold
from nacre.agent.hypervisors.proofs import Verdicts
from nacre.lib import processes
from nacre.lib.threads import in_thread
from nacre.model.capabilities import Offer
from nacre.model.convergence import FailureClass
from nacre.model.nodes import HypervisorInfo
from nacre.model.vms import MachineType

BINARY = "firecracker"
JAILER = "jailer"
KVM = Path("/dev/kvm")

_PROBE_S = 15.0
_START_S = 20.0
_ANSWER_S = 10.0
_LOAD_S = 120.0
_ADOPT_S = 3.0
_POLL_S = 0.005
_LOG_NAME = "hypervisor.log"
_LOG_KEPT = 64 << 10
_ELF = b"\x7fELF"
_STRANGER = "socket_of_another"
_INSTALL_HINT = "install Firecracker on the node: put the binary of its release where the agent's PATH leads"

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What a Firecracker binary said of itself."""

    path: str
    stamp: tuple[int, int]
    release: Release


class FirecrackerHypervisor:
    """Fulfils `base.Hypervisor`, `CanGuard`, `CanProbeAcceleration`, `CanRestore`, `CanOffer` and `HasJails`."""

    def __init__(self, *, state_directory: Path, binary: str = BINARY, jailer: str = JAILER, kvm: Path = KVM) -> None:
        self._binary = binary
        self._jailer = jailer
        self._kvm = kvm
        self._verdicts = Verdicts(state_directory, kvm)
        self._proving = asyncio.Lock()
        self._installed: Installed | None = None

    @property
    def name(self) -> str:
        """As in `VmSpec.hypervisor`."""
        return "firecracker"

    async def probe(self) -> HypervisorInfo:
        """What works here. A missing Firecracker, or a host without KVM, is an answer, not an error."""
        try:
            found = await self._find()
        except DriverError as error:
            return HypervisorInfo(name=self.name, available=False, reason=f"{error.message}; {error.hint}")
        if why := self._obstacle(found.release):
            return HypervisorInfo(name=self.name, available=False, reason=why, version=releases.text(found.release))
        unproven = "" if self._verdicts.find(releases.text(found.release)) else "KVM is not proven on this node yet"
        return HypervisorInfo(
            name=self.name,
            available=True,
            reason="; ".join(filter(None, (unproven, self.guard_obstacle()))),
            version=releases.text(found.release),
            accelerator="kvm",
            machines=tuple(machine.value for machine in MachineType),  # those of QEMU, which mean nothing here
            abilities=registry.abilities(self),
        )

    async def prove_acceleration(self, kernel: Path) -> None:
        """Boot `kernel` under KVM, unless that was done in today's circumstances. Raises DriverError, OSError.

        A kernel that the release cannot boot proves nothing.
        """
        found = await self._find()
        version = releases.text(found.release)
        async with self._proving:
            if self._verdicts.find(version) or not self._kvm.exists():
                return
            if await in_thread(_is_compressed, kernel) and not knows(found.release, releases.BZIMAGE):
                return
            reason = await proof.prove(found.path, kernel)
            self._verdicts.save(version, reason)
            log.info("hypervisor.acceleration_proven", name="kvm", works=not reason, reason=reason)

    async def offer(self) -> Offer:
        """What it can do on this host."""
        found = await self._find()
        return offer.offer(
            found.release, jailer=shutil.which(self._jailer) is not None, guard_obstacle=self.guard_obstacle()
        )

    @property
    def has_jails(self) -> bool:
        """See `HasJails`."""
        return True

    def guard_obstacle(self) -> str:
        """Firecracker is a process like all others."""
        return guarding.obstacle()

    async def start(self, launch: Launch) -> Guest:
        """Start a machine; returns when it runs. Raises DriverError and leaves no process behind."""
        found = await self._find()
        requests = config.build(launch, release=found.release)
        await in_thread(_check_kernel, launch, found.release)
        requests.append(Request("PUT", "/actions", {"action_type": "InstanceStart"}))
        return await self._run(launch, found, config.placed(launch), requests, _ANSWER_S)

    async def restore(self, launch: Launch, directory: Path) -> Guest:
        """Start a process that goes on where the guest was saved, paused. Raises DriverError and leaves no process."""
        found = await self._find()
        saved = await in_thread(checkpoints.read, directory, found.release)
        files = checkpoints.placed(launch, directory, saved)
        load = Request("PUT", "/snapshot/load", checkpoints.loading(launch, saved, found.release))
        return await self._run(launch, found, files, [load], _LOAD_S)

    async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
        """Take over a machine that outlived the agent; None if there is none. Raises DriverError when in doubt.

        A machine whose guest powered off meanwhile has no process any more, and comes back once to say so.
        """
        places = Places.found(launch)
        if handle is None:
            return await self._unrecorded(launch, places)
        process = take_hold(handle)
        if process is None:
            return await self._ended(places, handle)
        api = Api(places.api)
        if not guarding.is_frozen(process, guarding.guard_of(process)):
            try:
                ours = await _is_that(api, launch, process)
            except DriverError as error:
                if error.code == _STRANGER:
                    process.close()
                    await api.close()
                    raise
                ours = True  # silent or busy, but the very process: not to be started again
            if not ours:
                process.close()
                await api.close()
                return None
        return await _guest(places, handle, process, api, _release_of(handle))

    async def _ended(self, places: Places, handle: Handle) -> Guest | None:
        if handle.boot_id != processes.boot_id() or not await asyncio.to_thread(ended_well, places):
            return None
        process = processes.Process(handle.pid, handle.start_time, None)
        return FirecrackerGuest(places, handle, process, Api(places.api), _release_of(handle))

    async def _unrecorded(self, launch: Launch, places: Places) -> Guest | None:
        """Find a machine by its socket, or by its lease if it is frozen and cannot say who it is."""
        api = Api(places.api)
        try:
            peer = await api.connect(_ADOPT_S)
        except OSError:
            return None
        process = peer and processes.Process.open(peer.pid, peer.start_time)
        if process is None:
            await api.close()
            return None
        held_by = guarding.guard_of(process)
        frozen = guarding.is_frozen(process, held_by)
        if not (guarding.is_for(held_by, launch) if frozen else await _is_this(api, launch)):
            process.close()
            await api.close()
            return None
        found = await self._find()
        return await _guest(places, _handle(process, found.release), process, api, found.release)

    async def _run(
        self, launch: Launch, found: Installed, files: Sequence[Placed], requests: Sequence[Request], timeout: float
    ) -> Guest:
        """Start a process, tell it everything, and return the guest that came of it."""
        if why := self._obstacle(found.release):  # it would start, and its guest would never run
            raise DriverError(
                "accelerator_failed",
                why,
                hint="use the hypervisor qemu, which does without, or another node",
                failure_class=FailureClass.BLOCKED,
            )
        places = Places.of(launch, self._jail(launch, found))
        words = places.command(launch, found.path, pci=knows(found.release, releases.PCI_HOTPLUG), jailer=self._jailer)
        process: processes.Process | None = None
        api = Api(places.api)
        try:
            await in_thread(places.prepare, files)
            own_log = launch.directory / _LOG_NAME
            await in_thread(_shorten, own_log)
            user = launch.confinement if places.jail is not None and not places.jail.closed else None
            process = await guarding.spawn(
                words, lease=launch.lease, output=own_log, inherit=[launch.lock_fd], user=user
            )
            await _greeting(api, process)
            for request in requests:
                await api.tell(request, timeout=timeout)
            return await _guest(places, _handle(process, found.release), process, api, found.release)
        except BaseException as error:
            await asyncio.shield(_abandon(places, process, api))
            await in_thread(places.words_to, launch.directory / _LOG_NAME, launch.lock_fd)
            if isinstance(error, OSError):
                raise _not_started(error) from error
            raise

    def _jail(self, launch: Launch, found: Installed) -> Jail | None:
        if launch.confinement is None:
            return None
        if shutil.which(self._jailer) is None:
            raise DriverError(
                "jailer_missing",
                "the machine is to be confined, and Firecracker's jailer is not installed",
                hint="put the jailer of the same release beside Firecracker",
                failure_class=FailureClass.BLOCKED,
            )
        return Jail.of(launch.confinement, launch.vm, Path(found.path), closed=launch.lease is None)

    def _obstacle(self, release: Release) -> str:
        if not self._kvm.exists():
            return f"Firecracker needs KVM, and the node has no {self._kvm}"
        verdict = self._verdicts.find(releases.text(release))
        if verdict is not None and verdict.reason:
            return f"Firecracker needs KVM, which does not work on the node: {verdict.reason}"
        return ""

    async def _find(self) -> Installed:
        """Ask the installed Firecracker what it is, again only when the file changed. Raises DriverError."""
        path = shutil.which(self._binary)
        if path is None:
            raise _unavailable(f"{Path(self._binary).name} is not installed")
        stamp = _stamp(path)
        if self._installed is None or (self._installed.path, self._installed.stamp) != (path, stamp):
            release = releases.parse(await _said(path, "--version"))
            if release is None:
                raise _unavailable("the installed Firecracker does not run")
            if release < releases.OLDEST:
                raise _unavailable(f"the installed Firecracker {releases.text(release)} is too old")
            self._installed = Installed(path=path, stamp=stamp, release=release)
        return self._installed


async def _greeting(api: Api, process: processes.Process) -> None:
    """Wait until the API answers or the process ends, whichever comes first."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_S
    while True:
        with contextlib.suppress(OSError):
            peer = await api.connect(max(0.1, deadline - loop.time()))
            if peer is not None and peer.pid == process.pid:
                await api.describe(timeout=max(0.1, deadline - loop.time()))
                return
            await api.close()
        if await process.wait(_POLL_S):
            raise DriverError(
                "hypervisor_start_failed",
                f"Firecracker ended before it answered{_because(process.exit_status)}",
                hint="the node keeps its own words in hypervisor.log in the machine's directory",
            )
        if loop.time() > deadline:
            raise refusals.silent()


async def _abandon(places: Places, process: processes.Process | None, api: Api) -> None:
    await api.close()
    if process is not None:
        await process.kill()
        process.close()
    await in_thread(places.clean)


async def _guest(
    places: Places, handle: Handle, process: processes.Process, api: Api, release: Release
) -> FirecrackerGuest:
    guest = FirecrackerGuest(places, handle, process, api, release)
    try:
        await guest.open()
    except BaseException:
        await asyncio.shield(guest.detach())
        raise
    return guest


async def _is_that(api: Api, launch: Launch, process: processes.Process) -> bool:
    """Whether a process that lives runs the machine. Raises DriverError if another one answers, or none."""
    try:
        peer = await api.connect(_ADOPT_S)
    except OSError as error:
        raise refusals.silent() from error
    if peer is None or (peer.pid, peer.start_time) != (process.pid, process.start_time):
        raise _other_process()
    return await _is_this(api, launch)


async def _is_this(api: Api, launch: Launch) -> bool:
    return (await api.describe(timeout=_ADOPT_S)).get("id") == ids.machine(launch.vm)


def _stamp(path: str) -> tuple[int, int]:
    facts = Path(path).stat()
    return facts.st_mtime_ns, facts.st_size


async def _said(path: str, option: str) -> str:
    ask = partial(subprocess.run, [path, option], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S)
    try:
        done = await asyncio.to_thread(ask, text=True, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def _handle(process: processes.Process, release: Release) -> Handle:
    return Handle(
        pid=process.pid,
        start_time=process.start_time,
        boot_id=processes.boot_id(),
        accelerator="kvm",
        details={"firecracker": releases.text(release)},
    )


def _release_of(handle: Handle) -> Release:
    """The release that runs, which may not be the one that is installed by now."""
    return releases.parse(handle.details.get("firecracker", "")) or releases.OLDEST


def _check_kernel(launch: Launch, release: Release) -> None:
    assert launch.kernel is not None
    if _is_compressed(launch.kernel) and not knows(release, releases.BZIMAGE):
        raise refusal(
            "starting a compressed kernel",
            f"use an uncompressed one (vmlinux), or a node with {releases.name(releases.BZIMAGE)}",
        )


def _is_compressed(kernel: Path) -> bool:
    with kernel.open("rb") as file:
        return file.read(len(_ELF)) != _ELF


def _shorten(path: Path) -> None:
    """Keep the end of a log that has grown over many lives. Nothing writes to it now."""
    if path.exists() and path.stat().st_size > 4 * _LOG_KEPT:
        path.write_bytes(path.read_bytes()[-_LOG_KEPT:])


def _because(status: int | None) -> str:
    words = refusals.end(status)
    return f": {words}" if words else ""


def _not_started(error: OSError) -> DriverError:
    return DriverError(
        "hypervisor_start_failed",
        f"Firecracker could not be started: {error.strerror}",
        hint="see whether the node's disks are full, and whether the agent may write to its run_dir",
    )


def _other_process() -> DriverError:
    return DriverError(
        _STRANGER,
        "the machine's process lives, but another process answers on its socket",
        hint="look for a second Firecracker with the same socket on the node, and end the one that is wrong",
        failure_class=FailureClass.BLOCKED,
    )


def _unavailable(message: str) -> DriverError:
    return DriverError("hypervisor_unavailable", message, hint=_INSTALL_HINT, failure_class=FailureClass.BLOCKED)

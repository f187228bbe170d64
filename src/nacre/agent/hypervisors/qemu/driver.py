"""The driver called `qemu`: what is installed, starting, adopting. One running machine is a `guest.QemuGuest`."""

import asyncio
import contextlib
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import msgspec
import structlog

from nacre.agent.hypervisors import guarding, ports, registry, traffic
from nacre.agent.hypervisors.base import Guest, Handle
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Arrival, FirmwareFiles, Launch
from nacre.agent.hypervisors.lifecycle import take_hold
from nacre.agent.hypervisors.qemu import (
    acceleration,
    arriving,
    checkpoints,
    command_line,
    firmware,
    layering,
    limiting,
    logs,
    states,
    taps,
)
from nacre.agent.hypervisors.qemu import offer as offering
from nacre.agent.hypervisors.qemu.acceleration import Candidate, Choice, Verdicts
from nacre.agent.hypervisors.qemu.command_line import Surroundings
from nacre.agent.hypervisors.qemu.command_line import shape as shapes
from nacre.agent.hypervisors.qemu.command_line.shape import Shape
from nacre.agent.hypervisors.qemu.command_line.surroundings import TCG
from nacre.agent.hypervisors.qemu.guest import QemuGuest, clean_up
from nacre.agent.hypervisors.qemu.installed import Installed, find, unavailable
from nacre.agent.hypervisors.qemu.qmp import Qmp, silent
from nacre.agent.hypervisors.qemu.settling import pin, settle
from nacre.agent.hypervisors.qemu.talk import Talk
from nacre.lib import processes
from nacre.model.capabilities import Offer
from nacre.model.convergence import FailureClass
from nacre.model.nodes import HypervisorInfo

BINARY = "qemu-system-x86_64"

_START_S = 20.0
_ADOPT_S = 3.0
_LOAD_S = 600.0
_LAST_S = 2.0
_POLL_S = 0.005
_LOG_NAME = "hypervisor.log"
_FIRST_TAP = 4  # after the lock, in what the process inherits

log = structlog.get_logger()


class QemuHypervisor:
    """Fulfils `base.Hypervisor` and, of `abilities`, what is of a driver."""

    def __init__(
        self,
        *,
        state_directory: Path,
        binary: str = BINARY,
        candidates: tuple[Candidate, ...] | None = None,
    ) -> None:
        self._binary = binary
        self._verdicts = Verdicts(state_directory)
        self._candidates = acceleration.candidates() if candidates is None else candidates
        self._installed: Installed | None = None
        self._nics_obstacle = "nobody has tried it yet"
        self._proving = asyncio.Lock()

    @property
    def name(self) -> str:
        """As in `VmSpec.hypervisor`."""
        return "qemu"

    async def probe(self) -> HypervisorInfo:
        """What works here. A missing or broken QEMU is an answer, not an error."""
        try:
            found = await self._find()
        except DriverError as error:
            return HypervisorInfo(name=self.name, available=False, reason=f"{error.message}; {error.hint}")
        choice = self._choice(found)
        return HypervisorInfo(
            name=self.name,
            available=True,
            reason="; ".join(filter(None, (choice.reason, self.guard_obstacle()))),
            version=found.version,
            accelerator=choice.accelerator,
            machines=found.machines,
            abilities=registry.abilities(self),
        )

    async def offer(self) -> Offer:
        """Say what it can do on this host. Raises DriverError if it is not there."""
        found = await self._find()
        facts = await asyncio.to_thread(offering.look, found, self._choice(found).accelerator)
        if self._nics_obstacle:  # what the kernel could once, it can
            self._nics_obstacle = await traffic.obstacle()
        return offering.offer(replace(facts, nic_limits_obstacle=self._nics_obstacle))

    def uefi(self, *, secure_boot: bool) -> FirmwareFiles | None:
        """Return the OVMF of this host."""
        return firmware.find(firmware.FOLDERS, secure_boot=secure_boot)

    def guard_obstacle(self) -> str:
        """QEMU is a process like all others."""
        return guarding.obstacle()

    async def prove_acceleration(self, kernel: Path) -> None:
        """Boot `kernel` under each accelerator without a verdict for today's circumstances. Raises DriverError."""
        found = await self._find()
        async with self._proving:
            for candidate in self._candidates:
                if acceleration.obstacle(candidate) or self._verdicts.find(candidate, found.version):
                    continue
                reason = await acceleration.prove(found.path, candidate.name, kernel)
                self._verdicts.save(candidate, found.version, works=not reason, reason=reason)
                log.info("hypervisor.acceleration_proven", name=candidate.name, works=not reason, reason=reason)

    async def start(self, launch: Launch) -> Guest:
        """Start a machine; returns when its QEMU answers. Raises DriverError and leaves no process behind."""
        found = await self._find()
        choice = self._choice(found)
        try:
            return await self._start(launch, found, choice)
        except DriverError as error:
            candidate = next((each for each in self._candidates if each.name == choice.accelerator), None)
            if error.code != "accelerator_failed" or candidate is None:
                raise
            # It was proven, and fails now: better a slow machine than none.
            self._verdicts.save(candidate, found.version, works=False, reason=error.message)
            log.warning("hypervisor.acceleration_lost", name=candidate.name, reason=error.message)
            return await self._start(launch, found, self._choice(found))

    async def restore(self, launch: Launch, directory: Path) -> Guest:
        """Start a machine that goes on where it was saved, paused. Raises DriverError and leaves no process."""
        found = await self._find()
        saved = checkpoints.read(directory)
        choice = _same_accelerator(self._choice(found), saved)
        # A generation of its own: it is a copy, and there may be others.
        shape = msgspec.structs.replace(saved, generation="")
        return await self._start(launch, found, choice, shape, partial(checkpoints.load, directory=directory))

    async def receive(self, launch: Launch, socket: Path) -> Guest:
        """Start a process that waits for a machine; returns when it listens. Raises DriverError."""
        found = await self._find()
        choice = self._choice(found)
        arrival = launch.arrival or Arrival()
        shape = shapes.decode(arrival.shape) if arrival.shape else None
        if shape is not None:
            choice = _same_accelerator(choice, shape)
        then = partial(arriving.listen, socket=socket, arrival=arrival)
        return await self._start(replace(launch, arrival=arrival), found, choice, shape, then)

    async def receive_held(self, launch: Launch, socket: Path) -> Guest:
        """Start a process that waits for a machine, which stays paused when it has come. Raises DriverError."""
        return await self.receive(replace(launch, arrival=replace(launch.arrival or Arrival(), held=True)), socket)

    async def adopt(self, launch: Launch, handle: Handle | None) -> Guest | None:
        """Take over a machine that outlived the agent; None if there is none. Raises DriverError when in doubt."""
        process = None
        if handle is not None:
            process = take_hold(handle)
            if process is None:
                return None
            if guarding.is_frozen(process, guarding.guard_of(process)):
                return QemuGuest(launch, handle, process, None)
        try:
            qmp = await Qmp.connect(launch.run_directory / command_line.QMP_SOCKET, _ADOPT_S)
        except (OSError, DriverError):
            if process is None or handle is None:
                return await self._frozen(launch)
            # The very process lives and only its monitor does not answer: ours, and not to be started again.
            return QemuGuest(launch, handle, process, None)
        try:
            return await self._verified(launch, handle, process, qmp)
        except BaseException:
            await qmp.close()
            raise

    async def _verified(
        self, launch: Launch, handle: Handle | None, process: processes.Process | None, qmp: Qmp
    ) -> Guest | None:
        peer = qmp.peer
        if process is None and peer is not None:
            process = processes.Process.open(peer.pid, peer.start_time)
        if process is None:
            await qmp.close()
            return None
        if peer is None or (peer.pid, peer.start_time) != (process.pid, process.start_time):
            process.close()
            raise DriverError(
                "socket_of_another",
                "the machine's process lives, but another process answers on its monitor socket",
                hint="look for a second QEMU with the same socket on the node, and end the one that is wrong",
                failure_class=FailureClass.BLOCKED,
            )
        if (await qmp.ask("query-uuid", timeout=_ADOPT_S)).get("UUID") != command_line.uuid_of(launch.vm):
            process.close()
            await qmp.close()
            return None
        await layering.tidy(Talk(partial(_itself, qmp)))
        return QemuGuest(launch, handle or await self._new_handle(process, qmp), process, qmp)

    async def _frozen(self, launch: Launch) -> Guest | None:
        """Take over a machine that is not on record and whose QEMU cannot say who it is, because it is frozen."""
        found = await processes.listener(launch.run_directory / command_line.QMP_SOCKET)
        process = found and processes.Process.open(found.pid, found.start_time)
        if process is None:
            return None
        held_by = guarding.guard_of(process)
        if not guarding.is_frozen(process, held_by) or not guarding.is_for(held_by, launch):
            process.close()
            return None
        installed = await self._find()
        return QemuGuest(launch, _handle(process, installed, self._choice(installed)), process, None)

    async def _new_handle(self, process: processes.Process, qmp: Qmp) -> Handle:
        """Write down again what was lost with the agent."""
        found = await self._find()
        choice = self._choice(found)
        kvm = (await qmp.ask("query-kvm", timeout=_ADOPT_S)).get("enabled") is True
        return _handle(process, found, Choice("kvm") if kvm else Choice(TCG, choice.reason))

    async def _start(
        self,
        launch: Launch,
        found: Installed,
        choice: Choice,
        shape: Shape | None = None,
        then: Callable[[Talk], Awaitable[None]] | None = None,
    ) -> Guest:
        """Start the process. `then` is set for a guest that goes on from elsewhere, and done before it is returned."""
        if launch.machine.value not in found.machines:
            raise DriverError(
                "machine_unsupported",
                f"the node's QEMU {found.version} has no machine type {launch.machine.value}",
                hint=f"use one of {', '.join(found.machines)}, or a node with another QEMU",
                failure_class=FailureClass.PERMANENT,
            )
        ports.check_free(launch.publish)
        hypervisor_log = launch.directory / _LOG_NAME
        begin = logs.shorten(hypervisor_log)
        with taps.open_all(launch.nics) as opened:
            words = command_line.build(
                launch,
                _surroundings(found, choice),
                fds=opened.inherited(_FIRST_TAP),
                shape=shape,
                incoming=then is not None,
            )
            inherit = [launch.lock_fd, *opened.in_order()]
            await limiting.limit_nics(launch.nics)
            try:
                logs.give(launch)
                process = await guarding.spawn(
                    words,
                    lease=launch.lease,
                    output=hypervisor_log,
                    inherit=inherit,
                    user=launch.confinement,
                )
            except OSError as error:
                self._installed = None
                await limiting.abandon_nics(launch.nics)
                raise unavailable(f"QEMU cannot be run: {error.strerror}") from error
        try:
            qmp = await _greeting(launch, process, hypervisor_log, begin)
            talk = Talk(partial(_itself, qmp))
            if then is None:
                await settle(launch, talk, process.pid)
            else:
                await pin(launch.cpu, talk, process.pid)
                await _while_alive(then(talk), process, hypervisor_log, begin)
        except BaseException:
            await asyncio.shield(_abandon(launch, process))
            raise
        return QemuGuest(launch, _handle(process, found, choice), process, qmp)

    def _choice(self, found: Installed) -> Choice:
        return acceleration.choose(
            [
                (candidate, acceleration.obstacle(candidate), self._verdicts.find(candidate, found.version))
                for candidate in self._candidates
            ]
        )

    async def _find(self) -> Installed:
        self._installed = await find(self._binary, self._installed)
        return self._installed


async def _greeting(launch: Launch, process: processes.Process, hypervisor_log: Path, begin: int) -> Qmp:
    """Wait until the monitor answers or the process ends, whichever comes first."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _START_S
    while True:
        with contextlib.suppress(OSError, DriverError):  # it does not listen yet, or it has just hung up for good
            qmp = await Qmp.connect(launch.run_directory / command_line.QMP_SOCKET, max(0.1, deadline - loop.time()))
            if qmp.peer is not None and qmp.peer.pid == process.pid:
                return qmp
            await qmp.close()  # what an earlier life left is about to go
        if await process.wait(_POLL_S):
            raise states.start_failure(logs.since(hypervisor_log, begin), process.exit_status)
        if loop.time() > deadline:
            raise silent()


async def _while_alive(step: Awaitable[None], process: processes.Process, hypervisor_log: Path, begin: int) -> None:
    """Do a step of a guest that goes on from elsewhere. When QEMU cannot read what it is given, it ends."""
    try:
        async with asyncio.timeout(_LOAD_S):
            await step
    except TimeoutError as error:
        raise silent() from error
    except DriverError as error:
        if error.code == "hypervisor_silent" and await process.wait(_LAST_S):
            if process.exit_status == -signal.SIGKILL:
                raise states.killed_early() from error
            raise checkpoints.unusable(states.last_words(logs.since(hypervisor_log, begin)) or "QEMU ended") from error
        raise


def _same_accelerator(choice: Choice, shape: Shape) -> Choice:
    """A guest goes on under what it began with: its CPUs are others elsewhere. Raises DriverError."""
    if choice.accelerator == shape.accelerator:
        return choice
    if shape.accelerator == TCG:
        return Choice(TCG, "the machine comes from a process without hardware acceleration")
    raise DriverError(
        "accelerator_differs",
        f"the machine ran under {shape.accelerator}, which does not work on this node",
        hint="let it go on on a node like the one that it comes from",
        failure_class=FailureClass.BLOCKED,
    )


async def _abandon(launch: Launch, process: processes.Process) -> None:
    await process.kill()
    process.close()
    clean_up(launch)
    await limiting.abandon_nics(launch.nics)


def _handle(process: processes.Process, found: Installed, choice: Choice) -> Handle:
    return Handle(
        pid=process.pid,
        start_time=process.start_time,
        boot_id=processes.boot_id(),
        accelerator=choice.accelerator,
        accelerator_reason=choice.reason,
        details={"qemu": found.version},
    )


def _surroundings(found: Installed, choice: Choice) -> Surroundings:
    return Surroundings(
        binary=found.path,
        accelerator=choice.accelerator,
        sandbox=found.sandbox,
        linux=sys.platform == "linux",
        tsc_khz=_tsc_khz(),
    )


async def _itself(qmp: Qmp) -> Qmp:
    return qmp


@cache
def _tsc_khz() -> int | None:
    """The rate of the host's time stamp counter as its kernel tells it; None where it does not."""
    with contextlib.suppress(OSError):
        found = re.search(r"^cpu MHz\s*: ([\d.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        return int(float(found.group(1)) * 1000) if found else None
    return None

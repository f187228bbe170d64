"""Have a machine's hypervisor run as a user of its own, which may use the machine's files only. Called by `start`.

What is the machine's alone becomes its user's; what machines share may be read by the group of all of them; folders
stay ours, so that a hypervisor that was taken over cannot put other files in the places of its own.
"""

import stat
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import structlog

from nacre.agent.host import users
from nacre.agent.host.users import Users
from nacre.agent.hypervisors.abilities import CanOffer, HasJails
from nacre.agent.hypervisors.base import Hypervisor
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Confinement, Disk, DiskFile, Launch, RbdDisk
from nacre.agent.storage.headers import read_header
from nacre.agent.vms.host import Host
from nacre.agent.vms.machine import Machine
from nacre.lib.files import write_atomically
from nacre.lib.threads import in_thread
from nacre.model.capabilities import Capability, Offer, offers
from nacre.model.convergence import FailureClass

_FIRST_PORT = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
_USUAL_FIRST_PORT = 1024

log = structlog.get_logger()


async def confined(machine: Machine, launch: Launch, driver: Hypervisor, host: Host) -> Launch:
    """Return the launch as a user of the machine's own, whose files it may use. As it is where that cannot be done.

    The user is on record when this returns. Raises DriverError and OSError.
    """
    if host.users is None or not isinstance(driver, CanOffer):
        return launch
    if why := _lacking(driver.name, await driver.offer()) or await in_thread(needs_root, launch):
        if host.users.required:
            raise DriverError(
                "cannot_confine",
                f"the machine's hypervisor cannot run as a user of its own: {why}",
                hint="change that, or set confine to auto in the agent's configuration",
                failure_class=FailureClass.BLOCKED,
            )
        log.warning("vm.unconfined", vm=machine.id, reason=why, next="its hypervisor runs as the agent does")
        return launch
    user = host.users.take(machine.id)
    if machine.record.user != user:
        await machine.save(user=user)
    groups = (host.users.group, *users.kvm_group())
    jail = host.jails if isinstance(driver, HasJails) else None
    launch = replace(launch, confinement=Confinement(uid=user, gid=user, groups=groups, jail=jail))
    await in_thread(_give, launch, host.users, user, host.console_log(machine.id))
    return replace(launch, disks=tuple([await lend(machine, disk, host) for disk in launch.disks]))


def _lacking(name: str, offer: Offer) -> str:
    if offers(offer, Capability.CONFINED):
        return ""
    support = offer.get(Capability.CONFINED)
    return support.note if support is not None and support.note else f"{name} cannot do that"


def needs_root(launch: Launch, first_port: Path = _FIRST_PORT) -> str:
    """Say what of a machine only root can do; empty if nothing. Blocks, shortly."""
    try:
        free = int(first_port.read_text())
    except OSError:
        free = _USUAL_FIRST_PORT
    low = sorted({port.host_port for port in launch.publish if port.host_port < free})
    if low:
        return f"it publishes ports below {free}: {', '.join(map(str, low))}"
    source = Path(launch.devices.rng)
    if launch.devices.rng and source.exists() and not source.stat().st_mode & stat.S_IROTH:
        return f"only root may read its source of random numbers, {source}"
    return ""


async def lend(machine: Machine, disk: Disk, host: Host) -> Disk:
    """Let a machine's hypervisor use a disk, and return that as it is for the hypervisor. Raises OSError."""
    if host.users is None or not machine.record.user:
        return disk
    user = machine.record.user
    if isinstance(disk, DiskFile):
        await in_thread(_give_disk, disk, host.users, user, host.place(machine.id))
    elif isinstance(disk, RbdDisk):
        return await in_thread(_give_key, disk, host.users, user, host.run_place(machine.id))
    return disk


async def lend_file(machine: Machine, disk: Disk, host: Host) -> None:
    """As `lend`, for what a hypervisor has open already: of a disk in a cluster it needs nothing more."""
    if isinstance(disk, DiskFile):
        await lend(machine, disk, host)


async def forget_keys(disks: Collection[Disk], place: Path) -> None:
    """Remove the keys that were lent with disks: who has opened them needs none any more. Raises OSError."""
    lent = [disk.secret for disk in disks if isinstance(disk, RbdDisk) and disk.secret is not None]
    for path in lent:
        if path.parent == place:
            await in_thread(path.unlink, missing_ok=True)


async def lend_sockets(machine: Machine, sockets: Iterable[Path], host: Host) -> None:
    """Let a machine that runs connect to sockets of ours in its folder. Raises OSError."""
    if host.users is None or not machine.record.user:
        return
    for socket in sockets:
        await in_thread(host.users.own, socket, machine.record.user)


async def lend_folder(machine: Machine, folder: Path, host: Host) -> None:
    """Let a machine's hypervisor write to a folder, and read what it wrote there. Raises OSError."""
    if host.users is not None and machine.record.user:
        await in_thread(_own_all, folder, host.users, machine.record.user)


def _own_all(folder: Path, numbers: Users, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        numbers.own(path, user)


def _give(launch: Launch, numbers: Users, user: int, console_log: Path) -> None:
    numbers.enter(launch.directory, user)
    if launch.confinement is not None and launch.confinement.jail is not None:
        numbers.enter(launch.run_directory, user)
        return  # the rest is put into the jail by the driver
    numbers.own(launch.run_directory, user)
    console_log.touch(mode=0o600)
    for path in (console_log, launch.tpm_socket, launch.firmware and launch.firmware.variables):
        if path is not None:
            numbers.own(path, user)
    for path in (launch.kernel, launch.initrd):
        if path is not None:
            numbers.share(path)


def _give_disk(disk: DiskFile, numbers: Users, user: int, place: Path) -> None:
    """Its file, and what lies under it: layers that no other disk has too are the machine's, all others are shared.

    What is in the machine's own folder, `place`, is never shared: a cloud-init seed is read-only and holds secrets.
    """
    if (disk.read_only or disk.cdrom) and disk.path.parent != place:
        numbers.share(disk.path)
    else:
        numbers.own(disk.path, user)
    path, form = disk.path, disk.format
    while form == "qcow2" and (header := read_header(path)) is not None and header.backing:
        below = path.parent / header.backing
        if below.parent == path.parent and below.stat().st_nlink == 1 and not disk.read_only:
            numbers.own(below, user)
        else:
            numbers.reclaim(below)
            numbers.share(below)
        path, form = below, _format_of(below)


def _give_key(disk: RbdDisk, numbers: Users, user: int, place: Path) -> RbdDisk:
    """Copies of what leads to the disk, of the machine's own: other machines must not read each other's keys."""

    def copied(path: Path, suffix: str) -> Path:
        copy = place / f"{disk.id}.{suffix}"
        write_atomically(copy, path.read_bytes())
        numbers.own(copy, user)
        return copy

    secret = None if disk.secret is None else copied(disk.secret, "key")
    return replace(disk, configuration=copied(disk.configuration, "conf"), secret=secret)


def _format_of(path: Path) -> str:
    """Whether more may lie under a file. Only the answer "qcow2" is looked into."""
    with path.open("rb") as file:
        return "qcow2" if file.read(4) == b"QFI\xfb" else "raw"

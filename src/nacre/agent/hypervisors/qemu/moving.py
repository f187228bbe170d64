"""A guest on its way to another host: the sender's side. Called by `guest`.

QEMU sends by itself once it was told to, and stops the guest here before the guest runs there; nothing here ever lets
it run again after that. Disks that the other host does not see are mirrored first: then QEMU stops before the last
step, and goes on when the mirrors are complete. Every step begins by looking, so that another agent can take over.

A guest that has gone is known by what QEMU says of its last migration and by its run state: one that has come from
elsewhere has a migration that was completed, too, and stands still or runs. And by the capability `events`, which is
off while a checkpoint is written: after that the guest is still here.
"""

import asyncio
from pathlib import Path

from nacre.agent.hypervisors.abilities import MigrationProgress, MigrationState, MigrationTerms, disks_socket
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu import answers, layering
from nacre.agent.hypervisors.qemu.command_line.places import node_of
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.states import without_places
from nacre.agent.hypervisors.qemu.talk import Talk

_LOOK_S = 0.05
_FAST = 1 << 50  # bytes per second: no limit
_JOB = "move-"
_REMOTE = "remote"
_MARK = "events"
_POSTCOPY = "postcopy"
_SENT = {"finish-migrate", "postmigrate"}
"""Run states of a guest that was sent, of which the first lasts for a moment only."""
_ENDED = {"none", "failed", "cancelled", "completed"}
_STATES = {
    "none": MigrationState.NONE,
    "completed": MigrationState.MOVED,
    "failed": MigrationState.FAILED,
    "cancelled": MigrationState.CANCELLED,
    "postcopy-active": MigrationState.POSTCOPY,
    "postcopy-paused": MigrationState.POSTCOPY,
    "postcopy-recover": MigrationState.POSTCOPY,
}


async def progress(talk: Talk) -> MigrationProgress:
    """Ask QEMU how far it is."""
    found = await talk.ask(answers.Migration, "query-migrate")
    state = _STATES.get(found.status, MigrationState.COPYING)
    if state is MigrationState.MOVED and not await _is_gone(talk):
        state = MigrationState.NONE  # it was a checkpoint, or how it came here
    if found.status in _ENDED and state is not MigrationState.MOVED and await _jobs(talk):
        state = MigrationState.COPYING  # its disks come first
    ram = found.ram or answers.Ram()
    return MigrationProgress(
        state=state,
        transferred_bytes=ram.transferred,
        remaining_bytes=ram.remaining,
        downtime_ms=found.downtime if state is MigrationState.MOVED else None,
        detail=without_places(found.error_desc),
    )


async def forbid_if_moved(talk: Talk) -> None:
    """Raise DriverError if the guest runs elsewhere: here it never may again."""
    status = (await talk.ask(answers.Migration, "query-migrate")).status
    if status.startswith(_POSTCOPY) or (status == "completed" and await _is_gone(talk)):
        raise refused(
            "guest_moved",
            "the machine has moved to another node and runs there",
            "end what is left of it here; the machine itself is on the other node",
        )


async def begin(talk: Talk, socket: Path, terms: MigrationTerms) -> None:
    """Prepare; and without disks to copy, send. Returns when it has begun."""
    status = (await talk.ask(answers.Migration, "query-migrate")).status
    if status not in _ENDED:
        return
    await forbid_if_moved(talk)
    switches = {_MARK: True, "pause-before-switchover": bool(terms.disks), "postcopy-ram": terms.postcopy}
    capabilities = [{"capability": name, "state": state} for name, state in switches.items()]
    await talk.execute("migrate-set-capabilities", {"capabilities": capabilities})
    rate = terms.bandwidth_bytes or _FAST
    await talk.execute("migrate-set-parameters", {"downtime-limit": terms.downtime_ms, "max-bandwidth": rate})
    if terms.disks:
        await layering.leave(talk)  # QEMU does not mirror a disk whose layers it merges
        present = {job.id for job in await _jobs(talk)}
        for disk in terms.disks:
            if _JOB + disk not in present:
                await _mirror(talk, disk, disks_socket(socket), terms.bandwidth_bytes or 0)
    else:
        await _send(talk, socket, terms)


async def carry(talk: Talk, socket: Path, terms: MigrationTerms) -> None:
    """Do what is still to do once it has begun, until it has ended. Raises DriverError; then the guest runs on here."""
    try:
        if terms.disks and (await talk.ask(answers.Migration, "query-migrate")).status in _ENDED:
            await _ready(talk, len(terms.disks))
            await _send(talk, socket, terms)
        while (status := (await talk.ask(answers.Migration, "query-migrate")).status) not in _ENDED:
            if status == "pre-switchover":
                await _finish_mirrors(talk)
                await talk.attempt("migrate-continue", {"state": "pre-switchover"})
            await asyncio.sleep(_LOOK_S)
        await _drop_mirrors(talk)
    except DriverError as error:
        if error.code != "hypervisor_silent":
            await cancel(talk)
        raise


async def cancel(talk: Talk) -> None:
    """Stop sending, unless the guest has gone already. May be repeated.

    With postcopy it goes so soon that QEMU, told to cancel, might let it run in both places: then nothing is done.
    """
    status = (await talk.ask(answers.Migration, "query-migrate")).status
    if status not in _ENDED and await _has(talk, "postcopy-ram"):
        return
    await talk.execute("migrate_cancel")
    while (await talk.ask(answers.Migration, "query-migrate")).status not in _ENDED:  # noqa: ASYNC110  # looking tells
        await asyncio.sleep(_LOOK_S)
    await _drop_mirrors(talk)


async def take_back(talk: Talk) -> None:
    """Let a guest that was sent run here again: without the mark it is one whose checkpoint was written."""
    await _drop_mirrors(talk)  # who sent it may have died before that
    await talk.execute("migrate-set-capabilities", {"capabilities": [{"capability": _MARK, "state": False}]})
    await talk.execute("cont")


async def _send(talk: Talk, socket: Path, terms: MigrationTerms) -> None:
    await talk.execute("migrate", {"uri": f"unix:{socket}"})
    if terms.postcopy:
        # At once: with a way back for the pages, QEMU would take a cut just after the end for a failure, and run again.
        await talk.attempt("migrate-start-postcopy", {})
    while True:
        found = await talk.ask(answers.Migration, "query-migrate")
        if found.status == "failed":
            raise DriverError(
                "migration_failed",
                f"the machine cannot be sent: {without_places(found.error_desc) or 'nobody takes it'}",
                hint="it runs on here; look at the other node, then move it again",
            )
        if found.status != "setup":
            return
        await asyncio.sleep(_LOOK_S)


async def _is_gone(talk: Talk) -> bool:
    """Whether the migration that was completed has taken the guest elsewhere."""
    return (await talk.ask(answers.Status, "query-status")).status in _SENT and await _has(talk, _MARK)


async def _has(talk: Talk, capability: str) -> bool:
    found = await talk.ask(list[answers.Switch], "query-migrate-capabilities")
    return any(switch.capability == capability and switch.state for switch in found)


# Disks


async def _jobs(talk: Talk) -> list[answers.Job]:
    return [job for job in await talk.ask(list[answers.Job], "query-jobs") if job.id.startswith(_JOB)]


async def _mirror(talk: Talk, disk: str, socket: Path, rate: int) -> None:
    here = await layering.written(talk, disk)
    if here is None:
        raise refused("disk_unknown", f"the running machine has no disk {disk}", "move it by a restart")
    remote = node_of(disk, _REMOTE)
    if remote not in await talk.nodes():
        server = {"type": "unix", "path": str(socket)}
        await talk.execute("blockdev-add", {"driver": "nbd", "node-name": remote, "server": server, "export": disk})
    arguments = {"job-id": _JOB + disk, "device": here.node_name, "target": remote, "sync": "full", "speed": rate}
    await talk.execute("blockdev-mirror", {**arguments, "auto-dismiss": False})


async def _ready(talk: Talk, count: int) -> None:
    """Wait until all mirrors have caught up. Raises DriverError if one cannot."""
    while True:
        jobs = await _jobs(talk)
        if any(job.status == "concluded" for job in jobs) or len(jobs) < count:
            raise _broken(jobs)
        if all(job.status == "ready" for job in jobs):
            return
        await asyncio.sleep(_LOOK_S)


async def _finish_mirrors(talk: Talk) -> None:
    """Have the mirrors write what is missing and end: the guest stands still. Raises DriverError if one cannot."""
    for job in await _jobs(talk):
        if job.status == "ready":
            await talk.attempt("block-job-cancel", {"device": job.id})  # "cancel" is QEMU's word for not switching over
    while any(job.status != "concluded" for job in await _jobs(talk)):  # noqa: ASYNC110  # looking tells, events get lost
        await asyncio.sleep(_LOOK_S)
    jobs = await _jobs(talk)
    if any(job.error for job in jobs):
        raise _broken(jobs)


async def _drop_mirrors(talk: Talk) -> None:
    """Take the mirrors away, complete or not."""
    for job in await _jobs(talk):
        await talk.attempt("job-cancel", {"id": job.id})
    for job in await _jobs(talk):
        while not await talk.attempt("job-dismiss", {"id": job.id}):
            if job.id not in {one.id for one in await _jobs(talk)}:
                break
            await talk.attempt("block-job-cancel", {"device": job.id, "force": True})
            await asyncio.sleep(_LOOK_S)
    while await _jobs(talk):  # noqa: ASYNC110  # one that was dismissed is there until the last request to it has ended
        await asyncio.sleep(_LOOK_S)
    for name in await talk.nodes():
        if name.endswith(f"-{_REMOTE}"):
            await talk.attempt("blockdev-del", {"node-name": name})


def _broken(jobs: list[answers.Job]) -> DriverError:
    why = next((without_places(job.error) for job in jobs if job.error), "it ended too early")
    return DriverError(
        "disk_copy_failed",
        f"the content of the machine's disks cannot be copied: {why}",
        hint="is there room on the other node? The machine runs on here; move it again",
    )

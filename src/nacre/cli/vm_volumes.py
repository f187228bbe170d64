"""`nacre vm attach`, `detach` and `volumes`: which volumes a machine has."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from nacre.cli import arguments, output, progress, vm_views
from nacre.cli.options import NO_WAIT, VmName, VolumeName, Waiting
from nacre.cli.output import Column
from nacre.cli.session import Here
from nacre.cli.vm_verbs import settle
from nacre.errors import NacreError
from nacre.model.hardware import DiskOptions
from nacre.model.ids import VmId
from nacre.schema.vms import VmOut
from nacre.schema.volumes import AttachmentOut, VolumeAttach

if TYPE_CHECKING:
    from nacre.client.api import Nacre

COLUMNS: list[Column[AttachmentOut]] = [
    Column("VOLUME", lambda one: one.volume.name),
    Column("SERIAL", lambda one: one.serial),
    Column("MODE", lambda one: "read-only" if one.read_only else "read-write"),
    Column("OPEN", lambda one: "leaving" if one.leaving else "yes" if one.open else "no"),
    Column("WITH THE VM", lambda one: "deleted" if one.delete_with_vm else "kept"),
]


async def attached(nacre: "Nacre", vms: Sequence[VmOut]) -> Mapping[VmId, Sequence[AttachmentOut]]:
    """Return the volumes of each of these machines; none of one whose volumes cannot be seen."""

    async def of(vm: VmOut) -> list[AttachmentOut]:
        try:
            return await nacre.vms.volumes(vm.id)
        except NacreError:
            return []

    return dict(zip((vm.id for vm in vms), await asyncio.gather(*map(of, vms)), strict=True))


async def attach(
    vm: VmName,
    volume: VolumeName,
    /,
    *,
    read_only: Annotated[bool, Parameter(negative=(), help="The machine cannot write to it.")] = False,
    delete_with_vm: Annotated[bool, Parameter(negative=(), help="Delete it together with the machine.")] = False,
    direct: Annotated[bool, Parameter(negative=(), help="Past the node's page cache.")] = False,
    serial: Annotated[str, Parameter(help="Serial number that the guest reads; otherwise the tail of its id.")] = "",
    waiting: Waiting = NO_WAIT,
    session: Here,
) -> None:
    """Attach a volume to a machine; a running one gets it at once if its hypervisor can."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    ref = arguments.ref(vm, "vm")
    body = VolumeAttach(
        volume=arguments.ref(volume, "volume"),
        options=DiskOptions(direct=direct, serial=serial),
        read_only=read_only,
        delete_with_vm=delete_with_vm,
    )
    async with session.client() as nacre:
        with progress.spinner(f"attach {volume}") as say:
            accepted = await nacre.vms.attach(ref, body, project=session.project)
            done = await settle(nacre, accepted, waiting.wait, timeout_s, say)
    output.outcome(session, [done], lambda one: vm_views.outcome(one, waiting.wait))


async def detach(vm: VmName, volume: VolumeName, /, *, waiting: Waiting = NO_WAIT, session: Here) -> None:
    """Take a volume back from a machine. It is free once the machine has let go of it."""
    timeout_s = arguments.duration(waiting.timeout, "timeout")
    ref, held = arguments.ref(vm, "vm"), arguments.ref(volume, "volume")
    async with session.client() as nacre:
        with progress.spinner(f"detach {volume}") as say:
            accepted = await nacre.vms.detach(ref, held, project=session.project)
            done = await settle(nacre, accepted, waiting.wait, timeout_s, say)
    output.outcome(session, [done], lambda one: vm_views.outcome(one, waiting.wait))


async def volumes(vm: VmName, /, *, session: Here) -> None:
    """List the volumes of a machine."""
    async with session.client() as nacre:
        found = await nacre.vms.volumes(arguments.ref(vm, "vm"), project=session.project)
    output.items(session, found, COLUMNS, empty="no volumes")

"""What nodes offer, put together; and machines that ask for what no node could ever do."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from nacre.control.reconcilers.vms import Placer
from nacre.control.services import capabilities
from nacre.control.store import nodes, vms
from nacre.control.store.db import Database
from nacre.errors import InvalidInputError, UnsupportedError
from nacre.model.access import Role
from nacre.model.capabilities import BASELINE, NATIVE, Capability, Level, Support, told
from nacre.model.hardware import BootOptions, DeviceOptions, Firmware, NicOptions, RateLimits, TokenBucket
from nacre.model.nodes import HypervisorInfo, NodeFacts, NodeState
from nacre.model.vms import NicSpec
from nacre.schema.vms import VmUpdate
from support.access import user
from support.cloud import Cloud, by, cloud, facts, make_node

pytestmark = pytest.mark.anyio

FOREIGN = "quemu"
NO_TPM = Support(level=Level.UNSUPPORTED, note="install swtpm")
TPM = DeviceOptions(tpm=True)
LIMITS = (Capability.NIC_LIMITS_USER, Capability.NIC_LIMITS_PACKETS)
LIMITED = (NicSpec(options=NicOptions(send_limits=RateLimits(operations=TokenBucket(size=10)))),)


def host(*also: Capability, name: str = "qemu", **changes: Any) -> NodeFacts:
    """A host whose hypervisor offers the baseline and more."""
    offer = dict.fromkeys((*BASELINE, *also), NATIVE)
    if Capability.TPM not in also:
        offer[Capability.TPM] = NO_TPM
    known = facts()
    info = msgspec.structs.replace(known.hypervisors[0], name=name, offer=told(offer), **changes)
    return msgspec.structs.replace(known, hypervisors=(info,))


async def with_nodes(database: Database, *hosts: NodeFacts) -> Cloud:
    platform = await cloud(database, node_count=0)
    async with database.write() as tx:
        for number, told_ in enumerate(hosts):
            await make_node(tx, f"more-{number}", told=told_)
    return platform


async def test_what_no_node_could_ever_do_is_refused_with_the_field_and_the_reason(database: Database) -> None:
    platform = await with_nodes(database, host())
    with pytest.raises(UnsupportedError) as refused:
        await platform.create("web", devices=TPM)
    error = refused.value
    assert (error.code, error.field) == ("capability_missing", "devices.tpm")
    assert "tpm" in error.message
    assert "nacre hypervisor list" in error.hint


async def test_the_nearest_node_is_the_one_whose_reason_is_told(database: Database) -> None:
    platform = await with_nodes(database, host(Capability.BOOT_UEFI))
    with pytest.raises(UnsupportedError) as refused:
        await platform.create("web", devices=TPM, boot=BootOptions(firmware=Firmware.UEFI))
    assert "install swtpm" in refused.value.message
    assert "boot.uefi" not in refused.value.message


async def test_a_refusal_names_the_hypervisors_that_could(database: Database) -> None:
    platform = await with_nodes(database, host(*LIMITS, name="cloud-hypervisor"), host())
    with pytest.raises(UnsupportedError) as refused:
        await platform.create("web", nics=LIMITED)
    assert refused.value.field == "nics[0].options.send_limits"
    assert "cloud-hypervisor on more-0" in refused.value.hint


async def test_nodes_are_not_named_to_those_who_may_not_view_them(database: Database) -> None:
    platform = await with_nodes(database, host(*LIMITS, name="cloud-hypervisor"), host())
    editor = await user(database, "eve", (Role.EDITOR, platform.project))
    spec = msgspec.structs.replace((await platform.create("plain")).resource.spec, nics=LIMITED)
    async with database.read() as rd:
        caller = by("vm:create", editor)
        with pytest.raises(UnsupportedError) as refused:
            await capabilities.admit(rd, caller, spec, None)
    assert "cloud-hypervisor on 1 node" in refused.value.hint
    assert "more-0" not in refused.value.hint


async def test_what_a_node_could_that_is_out_of_reach_waits_for_it(database: Database) -> None:
    platform = await with_nodes(database, host(Capability.TPM))
    async with database.write() as tx:
        row = await nodes.get(tx, "more-0", lock=True)
        assert row is not None
        await nodes.save(tx, row, replace(row, state=NodeState.OFFLINE))
    async with database.write() as tx:
        await make_node(tx, "plain", told=host())
    await platform.create("web", devices=TPM)
    await Placer(database).once()
    async with database.read() as rd:
        row_ = await vms.named(rd, platform.project, "web")
    assert row_ is not None
    assert row_.node is None
    assert row_.decision is not None
    said = {(one.code, one.message, one.nodes) for one in row_.decision.rejected}
    assert ("capability_missing", "qemu cannot do tpm", 1) in said
    assert ("node_not_ready", "the node is offline", 1) in said


async def test_a_machine_goes_where_its_needs_are_met(database: Database) -> None:
    platform = await with_nodes(database, host(), host(Capability.TPM), host())
    await platform.create("web", devices=TPM)
    await Placer(database).once()
    seen = await platform.vm("web")
    assert seen.node is not None
    assert seen.node.name == "more-1"


async def test_a_change_to_what_no_node_can_do_is_refused_and_other_changes_are_not(database: Database) -> None:
    platform = await with_nodes(database, host())
    await platform.create("web")
    with pytest.raises(UnsupportedError):
        await platform.verb("update", "web", VmUpdate(devices=TPM))
    await platform.verb("update", "web", VmUpdate(labels={"a": "b"}))


async def test_without_nodes_nothing_is_known_and_nothing_refused(database: Database) -> None:
    platform = await cloud(database, node_count=0)
    await platform.create("web", devices=TPM)


def test_hypervisors_are_put_together_over_nodes() -> None:
    broken = HypervisorInfo(name="qemu", available=False, reason="QEMU is not installed")
    good = host(Capability.TPM, version="8.0").hypervisors[0]
    made = capabilities.summary("qemu", [good, host(version="7.2").hypervisors[0], broken, broken])
    assert (made.nodes, made.available, made.versions) == (4, 2, ("7.2", "8.0"))
    assert [(why.note, why.nodes) for why in made.unavailable] == [("QEMU is not installed", 2)]
    (tpm,) = [one for one in made.capabilities if one.capability == "tpm"]
    assert (tpm.level, tpm.nodes) == (Level.NATIVE, 1)
    assert [(why.note, why.nodes) for why in tpm.missing] == [("install swtpm", 1)]
    assert len(made.capabilities) == len(Capability)


async def test_a_hypervisor_that_nobody_knows_is_refused_with_those_there_are(database: Database) -> None:
    platform = await cloud(database)
    with pytest.raises(InvalidInputError) as refused:
        await platform.create("web", hypervisor=FOREIGN)
    assert (refused.value.code, refused.value.field) == ("unknown_hypervisor", "hypervisor")
    assert refused.value.hint == "one of: cloud-hypervisor, firecracker, qemu"
    async with database.write() as tx:
        await make_node(tx, "other", told=host(name=FOREIGN))
    await platform.create("web", hypervisor=FOREIGN)

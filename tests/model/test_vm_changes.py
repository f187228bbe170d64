"""What differs between a machine and its process, and what of it needs a restart."""

from typing import Any

import msgspec
import pytest

from nacre.lib.clock import ManualClock
from nacre.model.guests import SeedRef
from nacre.model.hardware import (
    Balloon,
    BootOptions,
    CpuOptions,
    DeviceOptions,
    DiskOptions,
    Firmware,
    HotplugMethod,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    RateLimits,
    TokenBucket,
)
from nacre.model.ids import ImageId, RunId
from nacre.model.units import GIB, MIB
from nacre.model.vm_changes import applied, changes, forgiven, in_force, pending, refused, restart_required
from nacre.model.vms import HaPolicy, NicSpec, PublishedPort, RunInfo, VmSpec

IMAGE = ImageId("img-00000000000000000000000000")
SOME = RateLimits(operations=TokenBucket(size=100))
STARTED = VmSpec(
    image=IMAGE,
    cpus=2,
    memory_bytes=GIB,
    cpu=CpuOptions(max=4),
    memory=MemoryOptions(max_bytes=2 * GIB, balloon=Balloon()),
    nics=(NicSpec(), NicSpec()),
)


def run_of(spec: VmSpec, **more: Any) -> RunInfo:
    told: dict[str, Any] = {
        "id": RunId("run"),
        "started_at": ManualClock().now(),
        "accelerator": "tcg",
        "accelerator_reason": "",
        "cpus": spec.cpus,
        "memory_bytes": spec.memory_bytes,
        "publish": spec.publish,
        "config": in_force(spec),
    }
    return RunInfo(**told | more)


def changed(**fields: Any) -> VmSpec:
    return msgspec.structs.replace(STARTED, **fields)


def limited(name: str) -> tuple[NicSpec, ...]:
    return NicSpec(), NicSpec(options=msgspec.structs.replace(NicOptions(), **{name: SOME}))


LIVE = {
    "cpus": changed(cpus=4),
    "memory_bytes": changed(memory_bytes=2 * GIB),
    "memory.balloon.reclaim_bytes": changed(
        memory=msgspec.structs.replace(STARTED.memory, balloon=Balloon(reclaim_bytes=64 * MIB))
    ),
    "disk_bytes": changed(disk_bytes=GIB),
    "root_disk.limits": changed(root_disk=DiskOptions(limits=SOME)),
    "nics[1].options.send_limits": changed(nics=limited("send_limits")),
    "nics[1].options.receive_limits": changed(nics=limited("receive_limits")),
}
FIXED = {
    "cpus": changed(cpus=5),
    "cpus ": changed(cpus=1),
    "memory_bytes": changed(memory_bytes=3 * GIB),
    "memory_bytes ": changed(memory_bytes=GIB // 2),
    "cpu.max": changed(cpu=CpuOptions(max=8)),
    "memory.balloon": changed(memory=MemoryOptions(max_bytes=2 * GIB)),
    "memory.balloon.deflate_on_oom": changed(
        memory=msgspec.structs.replace(STARTED.memory, balloon=Balloon(deflate_on_oom=False))
    ),
    "memory.hotplug": changed(memory=msgspec.structs.replace(STARTED.memory, hotplug=HotplugMethod.VIRTIO_MEM)),
    "root_disk.direct": changed(root_disk=DiskOptions(direct=True)),
    "limit_groups": changed(limit_groups=(LimitGroup(name="slow", limits=SOME),)),
    "devices.tpm": changed(devices=DeviceOptions(tpm=True)),
    "boot.firmware": changed(boot=BootOptions(firmware=Firmware.UEFI)),
    "nics": changed(nics=(NicSpec(),)),
    "nics[1].options.mtu": changed(nics=(NicSpec(), NicSpec(options=NicOptions(mtu=1400)))),
    "publish": changed(publish=(PublishedPort(guest_port=80, host_port=8080),)),
    "ha": changed(ha=HaPolicy.RESTART),
    "cloud_init": changed(cloud_init=SeedRef(digest="00ff")),
}


def test_a_machine_that_has_just_been_started_differs_in_nothing() -> None:
    assert changes(STARTED, run_of(STARTED)) == ()


@pytest.mark.parametrize("field", LIVE)
def test_what_changes_while_it_runs_is_to_be_done_and_then_is_done(field: str) -> None:
    run = run_of(STARTED)
    assert (pending(LIVE[field], run), restart_required(LIVE[field], run)) == ((field,), ())
    assert changes(LIVE[field], applied(run, LIVE[field], field)) == ()


@pytest.mark.parametrize("field", FIXED)
def test_what_does_not_change_while_it_runs_needs_a_restart(field: str) -> None:
    assert (pending(FIXED[field], run_of(STARTED)), restart_required(FIXED[field], run_of(STARTED))) == (
        (),
        (field.strip(),),
    )


@pytest.mark.parametrize("field", LIVE)
def test_what_the_hypervisor_refuses_needs_a_restart_until_there_is_a_newer_intent(field: str) -> None:
    run = refused(run_of(STARTED), field)
    assert (pending(LIVE[field], run), restart_required(LIVE[field], run)) == ((), (field,))
    assert pending(LIVE[field], forgiven(run)) == (field,)


def test_memory_is_given_back_only_where_it_was_not_added_as_dimms() -> None:
    virtio = changed(memory=MemoryOptions(max_bytes=2 * GIB, hotplug=HotplugMethod.VIRTIO_MEM))
    for started, fields in ((STARTED, ("memory_bytes",)), (virtio, ())):
        grown = run_of(started, memory_bytes=2 * GIB)
        assert restart_required(started, grown) == fields
    assert pending(virtio, run_of(virtio, memory_bytes=2 * GIB)) == ("memory_bytes",)


def test_limits_that_disks_share_are_not_changed_while_it_runs() -> None:
    group = LimitGroup(name="slow", limits=SOME)
    started = changed(root_disk=DiskOptions(limit_group="slow"), limit_groups=(group,))
    wanted = changed(root_disk=DiskOptions(limits=SOME))
    assert restart_required(wanted, run_of(started)) == ("root_disk.limits", "root_disk.limit_group", "limit_groups")


def test_a_machine_that_was_started_with_its_seed_needs_no_restart_for_it() -> None:
    seeded = changed(cloud_init=SeedRef(digest="00ff"))
    assert changes(seeded, run_of(seeded, seed="00ff")) == ()
    assert restart_required(STARTED, run_of(seeded, seed="00ff")) == ("cloud_init",)


def test_of_an_agent_that_says_less_only_that_is_compared() -> None:
    run = run_of(STARTED, config=None)
    assert restart_required(changed(cpus=4, devices=DeviceOptions(tpm=True)), run) == ("cpus",)


def test_a_machine_that_is_off_gets_everything_when_it_starts() -> None:
    run = run_of(STARTED, exited_at=ManualClock().now())
    assert changes(changed(cpus=4), run) == changes(changed(cpus=4), None) == ()

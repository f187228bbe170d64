"""What guests of Firecracker can beyond the core: devices that come, go and change, sizes, counters."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors import abilities
from nacre.agent.hypervisors.abilities import DeviceCounters, Sizes
from nacre.agent.hypervisors.launch import RbdDisk
from nacre.model.convergence import FailureClass
from nacre.model.hardware import NO_LIMITS, Balloon, HotplugMethod, MemoryOptions, NicOptions, RateLimits, TokenBucket
from nacre.model.units import MIB
from support.vmm.firecracker_lab import config, laboratory, refused

pytestmark = pytest.mark.anyio

LIMITS = RateLimits(bandwidth=TokenBucket(size=1000), operations=TokenBucket(size=10, refill_ms=100, burst=5))


@pytest.fixture
async def lab(monkeypatch):
    async for made in laboratory(monkeypatch):
        yield made


async def test_what_it_can_beyond_the_core(lab):
    _, guest, _ = await lab.started()
    for ability in ("CanHotplug", "CanResize", "CanResizeDisks", "CanLimit", "CanCheckpoint", "HasCounters"):
        assert isinstance(guest, getattr(abilities, ability)), ability
    for ability in ("CanRestore", "CanOffer", "CanGuard"):
        assert isinstance(lab.driver, getattr(abilities, ability)), ability
    for ability in ("CanMigrate", "HasDisplay", "HasGuestChannel"):
        assert not isinstance(guest, getattr(abilities, ability)), ability


async def test_disks_come_and_go_as_often_as_one_likes(lab):
    _, guest, _ = await lab.started()
    more = lab.disk("data-1", read_only=True)
    for _ in range(2):
        await guest.attach_disk(more)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root", "data_2d1"]
    for _ in range(2):
        await guest.detach_disk("data-1", 5)
        assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root"]
    await guest.attach_disk(more)
    error = await refused(guest.detach_disk("root", 5), "device_in_use")
    assert error.failure_class is FailureClass.PERMANENT


async def test_nics_come_and_go_as_often_as_one_likes(lab):
    _, guest, _ = await lab.started(nics=(lab.nic(),))
    more = replace(lab.nic("nic-1", "tap1", 2), options=NicOptions(mtu=1400, send_limits=LIMITS))
    for _ in range(2):
        await guest.attach_nic(more)
        found = (await config(guest))["network-interfaces"]
        assert [(each["iface_id"], each["mtu"]) for each in found] == [("nic_2d0", None), ("nic_2d1", 1400)]
    for _ in range(2):
        await guest.detach_nic("nic-1", 5)
    await refused(guest.attach_nic(replace(more, device="none")), "tap_unavailable")
    await refused(guest.attach_nic(replace(lab.nic(last=1), id="nic-2")), "mac_in_use")


async def test_what_cannot_be_connected_is_refused_before_anything_is_asked(lab):
    _, guest, _ = await lab.started()
    asked = lab.trace.read_text()
    await refused(guest.attach_disk(lab.disk("q", format="qcow2")), "disk_unsupported")
    rbd = RbdDisk(id="r", pool="p", image="i", configuration=Path("/c"))
    await refused(guest.attach_disk(rbd), "disk_unsupported")
    await refused(guest.attach_nic(replace(lab.nic(), options=NicOptions(queues=2))), "unsupported_by_hypervisor")
    assert lab.trace.read_text() == asked


async def test_an_older_release_adds_no_devices(lab, monkeypatch):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.15.0")
    _, guest, _ = await lab.started()
    await refused(guest.attach_disk(lab.disk("more")), "wrong_state")
    assert [each["drive_id"] for each in (await config(guest))["drives"]] == ["root"]


async def test_limits_are_replaced_as_a_whole(lab):
    _, guest, _ = await lab.started(nics=(lab.nic(),))
    await guest.limit_disk("root", LIMITS)
    limited = {
        "bandwidth": {"size": 1000, "refill_time": 1000},
        "ops": {"size": 10, "refill_time": 100, "one_time_burst": 5},
    }
    assert (await config(guest))["drives"][0]["rate_limiter"] == limited
    await guest.limit_disk("root", RateLimits(operations=LIMITS.operations))
    assert (await config(guest))["drives"][0]["rate_limiter"] == {"ops": limited["ops"]}
    await guest.limit_disk("root", NO_LIMITS)
    assert (await config(guest))["drives"][0]["rate_limiter"] is None
    await guest.limit_nic("nic-0", LIMITS, NO_LIMITS)
    nic = (await config(guest))["network-interfaces"][0]
    assert (nic["rx_rate_limiter"], nic["tx_rate_limiter"]) == (limited, None)
    await refused(guest.limit_disk("none", LIMITS), "device_not_found")


async def test_the_balloon_takes_and_gives(lab):
    _, guest, _ = await lab.started(memory=MemoryOptions(balloon=Balloon(reclaim_bytes=16 * MIB)))
    assert await guest.sizes() == Sizes(cpus=1, memory_bytes=128 * MIB, reclaimed_bytes=16 * MIB)
    for size in (64 * MIB, 0):
        await guest.reclaim(size)
        assert (await guest.sizes()).reclaimed_bytes == size
    await refused(guest.reclaim(256 * MIB), "balloon_too_large")


async def test_without_a_balloon_nothing_is_reclaimed(lab):
    _, guest, _ = await lab.started()
    assert await guest.sizes() == Sizes(cpus=1, memory_bytes=128 * MIB)
    await refused(guest.reclaim(MIB), "device_not_found")


async def test_memory_grows_and_shrinks_between_what_it_began_with_and_its_maximum(lab):
    options = MemoryOptions(max_bytes=384 * MIB, hotplug=HotplugMethod.VIRTIO_MEM)
    _, guest, _ = await lab.started(memory=options)
    for size in (256, 384, 384, 128):
        await guest.resize_memory(size * MIB)
        assert (await guest.sizes()).memory_bytes == size * MIB
    await refused(guest.resize_memory(512 * MIB), "memory_size_refused")
    await refused(guest.resize_memory(64 * MIB), "unsupported_by_hypervisor")


async def test_memory_without_room_and_cpus_stay_as_they_are(lab):
    _, guest, _ = await lab.started()
    await guest.resize_memory(128 * MIB)
    await guest.resize_cpus(1)
    await refused(guest.resize_memory(256 * MIB), "unsupported_by_hypervisor")
    await refused(guest.resize_cpus(2), "unsupported_by_hypervisor")


async def test_a_disk_grows_and_never_shrinks(lab):
    _, guest, _ = await lab.started()
    for _ in range(2):
        await guest.resize_disk("root", 4 << 20)
        assert (lab.root / "root.raw").stat().st_size == 4 << 20
    assert '"path_on_host": "disks/root"' in lab.trace.read_text().splitlines()[-1].replace('\\"', '"')
    await refused(guest.resize_disk("root", 1 << 20), "disk_shrinks")
    await refused(guest.resize_disk("none", 1 << 30), "device_not_found")


async def test_what_goes_through_devices_is_counted_whoever_asks(lab):
    launch, guest, _ = await lab.started(nics=(lab.nic(),))
    first = await guest.counters()
    assert first.disks == (DeviceCounters(id="root", read_bytes=1 << 20, written_bytes=4096, reads=256, writes=1),)
    assert first.nics == (DeviceCounters(id="nic-0", read_bytes=1500, written_bytes=3000, reads=1, writes=2),)
    await guest.detach()
    again = lab.keep(await lab.driver.adopt(launch, guest.handle))
    second = await again.counters()
    assert second.disks == first.disks
    assert second.nics[0].read_bytes == 3000

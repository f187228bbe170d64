"""What a release of Firecracker can do."""

import pytest

from nacre.agent.hypervisors.firecracker import releases
from nacre.agent.hypervisors.firecracker.offer import offer
from nacre.model.capabilities import Capability, Level, offers

NEWEST, OLD = (1, 17, 0), (1, 11, 0)
GATED = {
    Capability.MEMORY_ADD: (1, 14),
    Capability.MEMORY_VIRTIO: (1, 14),
    Capability.BALLOON_REPORTING: (1, 14),
    Capability.DISK_ADD: (1, 16),
    Capability.DISK_REMOVE: (1, 16),
    Capability.NIC_ADD: (1, 16),
    Capability.NIC_REMOVE: (1, 16),
    Capability.NIC_MTU: (1, 16),
    Capability.MEMORY_THP: (1, 17),
    Capability.MEMORY_HUGEPAGES_2M: (1, 7),
    Capability.RESEED: (1, 8),
    Capability.DISK_VHOST_USER: (1, 6),
}


def made(release, **changes):
    return offer(release, **({"jailer": True, "guard_obstacle": ""} | changes))


@pytest.mark.parametrize(("capability", "since"), GATED.items())
def test_what_came_with_a_release_is_there_from_then_on(capability, since):
    assert offers(made((*since, 0)), capability)
    before = made((1, since[1] - 1, 99))
    assert not offers(before, capability)
    assert f"1.{since[1]}" in before[capability].note


def test_nothing_else_depends_on_the_release():
    assert {each for each in Capability if offers(made(NEWEST), each) != offers(made((1, 5, 0)), each)} == GATED.keys()


@pytest.mark.parametrize(
    "capability",
    [
        Capability.BOOT_UEFI,
        Capability.BOOT_BIOS,
        Capability.CPU_ADD,
        Capability.DISK_QCOW2,
        Capability.NIC_USER,
        Capability.MIGRATE,
        Capability.GRAPHICS_VNC,
        Capability.TPM,
        Capability.RESET,
        Capability.NUMA,
        Capability.GUEST_CHANNEL,
    ],
)
def test_its_makers_left_out(capability):
    assert not offers(made(NEWEST), capability)


def test_of_disks_it_opens_those_that_every_hypervisor_does():
    assert offers(made((1, 5, 0)), Capability.DISK_RAW)


def test_what_is_not_quite_it_says_so():
    levels = {each: made(NEWEST)[each].level for each in (Capability.CONSOLE, Capability.DISK_RESIZE)}
    assert set(levels.values()) == {Level.EMULATED}
    assert made(NEWEST)[Capability.SHUTDOWN].level is Level.NEEDS_GUEST
    assert made(NEWEST)[Capability.DISK_ADD].level is Level.EXPERIMENTAL
    assert all(support.note for support in made(OLD).values() if support.level is not Level.NATIVE)


def test_the_host_decides_of_guards_and_jails():
    without = made(NEWEST, jailer=False, guard_obstacle="not here")
    assert without[Capability.GUARD].note == "not here"
    assert not offers(without, Capability.CONFINED)
    assert offers(made(NEWEST), Capability.GUARD)
    assert offers(made(NEWEST), Capability.CONFINED)


@pytest.mark.parametrize(
    ("text", "release"),
    [("Firecracker v1.17.0\n\n", (1, 17, 0)), ("1.16.1-dev", (1, 16, 1)), ("nothing", None), ("", None)],
)
def test_versions_are_read_as_they_are_printed(text, release):
    assert releases.parse(text) == release

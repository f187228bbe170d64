"""What Cloud Hypervisor can do, by its version."""

from nacre.agent.hypervisors.cloud_hypervisor import offer
from nacre.model.capabilities import Capability, Level, offers


def test_what_it_can_and_what_it_cannot():
    found = offer.offer(guard_obstacle="")
    assert offers(found, Capability.CHECKPOINT)
    assert offers(found, Capability.GUARD)
    assert found[Capability.DISK_REMOVE].level is Level.NEEDS_GUEST
    assert found[Capability.CONSOLE].level is Level.EMULATED
    assert not offers(found, Capability.NIC_USER)
    assert not offers(found, Capability.BOOT_BIOS)
    assert offers(found, Capability.CONFINED)
    assert not offers(offer.offer(guard_obstacle="no timers"), Capability.GUARD)


def test_what_is_not_plain_says_why():
    assert all(
        support.note for support in offer.offer(guard_obstacle="x").values() if support.level is not Level.NATIVE
    )


def test_old_releases_are_not_driven():
    assert offer.too_old((53, 0)) == ""
    assert offer.too_old((54, 1)) == ""
    assert "52.0" in offer.too_old((52, 0))

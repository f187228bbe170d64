"""What QEMU offers follows from the host, and is what it does."""

from dataclasses import replace

import pytest

from nacre.agent.hypervisors import traffic
from nacre.agent.hypervisors.abilities import CanOffer
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.qemu.driver import QemuHypervisor
from nacre.agent.hypervisors.qemu.installed import Installed
from nacre.agent.hypervisors.qemu.offer import Facts, look, offer
from nacre.model.capabilities import Capability, Level, offers
from nacre.model.units import GIB, MIB

FULL = Facts(
    accelerator="kvm",
    ceph=True,
    uefi=True,
    secure_uefi=True,
    swtpm=True,
    merging=True,
    huge_pages=frozenset({2 * MIB, GIB}),
)
NEVER = {
    Capability.CPU_REMOVE,
    Capability.BALLOON_STATS,
    Capability.NIC_LIMITS_PACKETS,
    Capability.NIC_LIMITS_USER,
    Capability.PCI_SEGMENTS,
    Capability.MIGRATE_TLS,
}
INSTALLED = Installed(path="q", stamp=(0, 0), version="7.2.0", machines=("q35",), sandbox=True)


def missing(facts: Facts) -> set[Capability]:
    made = offer(facts)
    return {capability for capability in Capability if not offers(made, capability)}


def test_a_host_that_has_everything_offers_all_that_qemu_can_do() -> None:
    assert missing(FULL) == NEVER


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"accelerator": "tcg"}, {Capability.CPU_HYPERV}),
        ({"ceph": False}, {Capability.DISK_RBD}),
        ({"uefi": False}, {Capability.BOOT_UEFI}),
        ({"secure_uefi": False}, {Capability.SECURE_BOOT}),
        ({"swtpm": False}, {Capability.TPM}),
        ({"merging": False}, {Capability.MEMORY_MERGEABLE}),
        ({"huge_pages": frozenset({2 * MIB})}, {Capability.MEMORY_HUGEPAGES_1G}),
        ({"huge_pages": frozenset()}, {Capability.MEMORY_HUGEPAGES_1G, Capability.MEMORY_HUGEPAGES_2M}),
        ({"root": False}, {Capability.CONFINED}),
        ({"guard_obstacle": "no prctl"}, {Capability.GUARD}),
        ({"nic_limits_obstacle": "no tc"}, {Capability.NIC_LIMITS, Capability.NIC_LIMITS_LIVE}),
    ],
)
def test_what_the_host_lacks_is_not_offered(changes: dict[str, object], lost: set[Capability]) -> None:
    assert missing(replace(FULL, **changes)) == NEVER | lost  # type: ignore[arg-type]


def test_networks_of_the_node_and_confinement_are_offered_on_linux_only() -> None:
    lost = missing(replace(FULL, linux=False))
    assert {Capability.NIC_TAP, Capability.CONFINED, Capability.MEMORY_SHARED, Capability.SECURE_BOOT} <= lost
    assert not {Capability.NIC_USER, Capability.BOOT_UEFI, Capability.GRAPHICS_VNC} & lost


def test_limits_of_nics_are_the_kernels_and_where_it_has_none_the_reason_is_told() -> None:
    assert offer(FULL)[Capability.NIC_LIMITS].level is Level.EMULATED
    assert "taps" in offer(FULL)[Capability.NIC_LIMITS].note
    assert offer(replace(FULL, nic_limits_obstacle="no tc"))[Capability.NIC_LIMITS_LIVE].note == "no tc"


def test_whatever_is_not_simply_there_says_why() -> None:
    for facts in (FULL, Facts(accelerator="tcg"), Facts(accelerator="hvf", linux=False, guard_obstacle="macOS")):
        for capability, support in offer(facts).items():
            assert support.note or support.level is Level.NATIVE, capability


def test_firmware_is_found_where_distributions_put_it(tmp_path) -> None:
    assert not look(INSTALLED, "tcg", [tmp_path]).uefi
    (tmp_path / "OVMF_CODE_4M.fd").touch()
    (tmp_path / "OVMF_VARS_4M.fd").touch()
    (tmp_path / "OVMF_CODE_4M.secboot.fd").touch()
    (tmp_path / "OVMF_VARS_4M.ms.fd").touch()
    found = look(INSTALLED, "tcg", [tmp_path])
    assert found.uefi
    assert found.secure_uefi


@pytest.mark.anyio
@pytest.mark.host
async def test_the_installed_qemu_makes_an_offer_and_a_missing_one_none(tmp_path) -> None:
    driver = QemuHypervisor(state_directory=tmp_path, candidates=())
    assert isinstance(driver, CanOffer)
    if (await driver.probe()).available:
        made = await driver.offer()
        assert offers(made, Capability.BOOT_KERNEL)
        assert not offers(made, Capability.CPU_HYPERV)
        assert offers(made, Capability.NIC_LIMITS) == (not await traffic.obstacle())
    with pytest.raises(DriverError) as caught:
        await QemuHypervisor(state_directory=tmp_path, binary="qemu-nowhere").offer()
    assert caught.value.code == "hypervisor_unavailable"

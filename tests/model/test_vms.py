"""Rules of machines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.model.ids import VmId
from nacre.model.vm_checks import ports_overlap
from nacre.model.vms import (
    Desired,
    NicSpec,
    Phase,
    PublishedPort,
    TransportProtocol,
    nic_mac,
    satisfies,
)


def port(host: int, address: str = "127.0.0.1", protocol: TransportProtocol = TransportProtocol.TCP) -> PublishedPort:
    return PublishedPort(guest_port=80, host_port=host, host_address=address, protocol=protocol)


def test_a_wildcard_address_overlaps_every_address_on_the_same_port() -> None:
    assert ports_overlap(port(80, "0.0.0.0"), port(80, "192.0.2.1"))
    assert ports_overlap(port(80, "::"), port(80, "127.0.0.1"))
    assert not ports_overlap(port(80, "127.0.0.1"), port(80, "127.0.0.2"))
    assert not ports_overlap(port(80), port(81))
    assert not ports_overlap(port(80), port(80, protocol=TransportProtocol.UDP))


@pytest.mark.parametrize(
    ("desired", "good"),
    [
        (Desired.RUNNING, {Phase.RUNNING}),
        (Desired.PAUSED, {Phase.PAUSED}),
        (Desired.STOPPED, {Phase.STOPPED, Phase.PENDING}),
        (Desired.ABSENT, {Phase.ABSENT}),
    ],
)
def test_each_desire_is_satisfied_by_its_phases_and_no_other(desired: Desired, good: set[Phase]) -> None:
    assert {phase for phase in Phase if satisfies(desired, phase)} == good


@given(st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyz", min_size=26, max_size=26), st.integers(0, 7))
def test_a_derived_mac_is_unicast_local_and_stable(tail: str, index: int) -> None:
    vm = VmId(f"vm-{tail}")
    mac = nic_mac(vm, index)
    first = int(mac.split(":")[0], 16)
    assert first & 1 == 0
    assert first & 2 == 2
    assert mac == nic_mac(vm, index)
    assert NicSpec(mac=mac).mac == mac
    assert len({nic_mac(vm, i) for i in range(8)}) == 8

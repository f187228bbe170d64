"""Rules of machines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nacre.errors import InvalidInputError, UnsupportedError
from nacre.lib.clock import ManualClock
from nacre.model.ids import ImageId, RunId, VmId
from nacre.model.vms import (
    Desired,
    NicSpec,
    Phase,
    PublishedPort,
    RunInfo,
    TransportProtocol,
    VmSpec,
    check_spec,
    nic_mac,
    ports_overlap,
    restart_required,
    satisfies,
)

IMAGE = ImageId("img-00000000000000000000000000")


def port(host: int, address: str = "127.0.0.1", protocol: TransportProtocol = TransportProtocol.TCP) -> PublishedPort:
    return PublishedPort(guest_port=80, host_port=host, host_address=address, protocol=protocol)


def test_a_wildcard_address_overlaps_every_address_on_the_same_port() -> None:
    assert ports_overlap(port(80, "0.0.0.0"), port(80, "192.0.2.1"))
    assert ports_overlap(port(80, "::"), port(80, "127.0.0.1"))
    assert not ports_overlap(port(80, "127.0.0.1"), port(80, "127.0.0.2"))
    assert not ports_overlap(port(80), port(81))
    assert not ports_overlap(port(80), port(80, protocol=TransportProtocol.UDP))


def test_a_port_published_twice_names_the_field() -> None:
    with pytest.raises(InvalidInputError) as caught:
        check_spec(VmSpec(image=IMAGE, publish=(port(80), port(81), port(80, "0.0.0.0"))))
    assert caught.value.code == "port_published_twice"
    assert caught.value.field == "publish[2]"


@pytest.mark.parametrize("address", ["localhost", "256.0.0.1", "", "127.0.0.1:80", "../etc"])
def test_a_host_address_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInputError, match="not an IP address"):
        check_spec(VmSpec(image=IMAGE, publish=(port(80, address),)))


@pytest.mark.parametrize("address", ["::1", "::", "2001:db8::1"])
def test_an_ipv6_address_is_refused_because_nothing_could_listen_there(address: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        check_spec(VmSpec(image=IMAGE, publish=(port(80, address),)))
    assert (caught.value.code, caught.value.field) == ("ipv6_publish_unsupported", "publish[0].host_address")


def test_publishing_without_a_nic_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="no NIC"):
        check_spec(VmSpec(image=IMAGE, nics=(), publish=(port(80),)))


def test_kernel_args_stay_on_one_line() -> None:
    with pytest.raises(InvalidInputError, match="line break"):
        check_spec(VmSpec(image=IMAGE, kernel_args="quiet\ninit=/bin/sh"))


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


def test_a_change_of_a_running_machine_names_what_waits_for_a_restart() -> None:
    now = ManualClock().now()
    run = RunInfo(
        id=RunId("run"), started_at=now, accelerator="tcg", accelerator_reason="", cpus=1, memory_bytes=128 << 20
    )
    spec = VmSpec(image=IMAGE, cpus=2, memory_bytes=128 << 20, publish=(port(80),))
    assert restart_required(spec, run) == ("cpus", "publish")
    assert restart_required(spec, None) == ()


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

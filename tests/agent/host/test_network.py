"""Whether a host is on a network."""

import pytest

from nacre.agent.host import network
from nacre.agent.host.network import NetworkWatch
from support.hosttree import plant, write

IPV4 = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n"
DEFAULT = "eth0\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
LOCAL = "eth0\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n"


def test_default_routes_of_both_kinds_are_seen_and_the_kernels_refusals_are_none(tmp_path):
    assert network.default_interfaces(plant("server", tmp_path / "a")) == {"bond0"}
    assert network.default_interfaces(plant("virtual", tmp_path / "b")) == {"eth0"}
    assert network.default_interfaces(plant("arm", tmp_path / "c")) == frozenset()


def test_a_host_with_nothing_but_loopback_is_off_the_network(tmp_path):
    up = {"lo": True, "eth0": True}
    watch = NetworkWatch(tmp_path, lambda: up)
    assert watch.trouble() == ""
    up["eth0"] = False
    assert watch.trouble() == "no network interface is up"
    up["eth0"] = True
    assert watch.trouble() == ""


def test_a_default_route_through_an_interface_that_is_down_leads_nowhere(tmp_path):
    write(tmp_path, "proc/net/route", IPV4 + DEFAULT + LOCAL)
    up = {"eth0": True, "eth1": True}
    watch = NetworkWatch(tmp_path, lambda: up)
    assert watch.trouble() == ""
    up["eth0"] = False
    assert "eth0, is down" in watch.trouble()


def test_a_default_route_that_was_there_is_missed_and_one_that_never_was_is_not(tmp_path):
    write(tmp_path, "proc/net/route", IPV4 + LOCAL)
    watch = NetworkWatch(tmp_path, lambda: {"eth0": True})
    assert watch.trouble() == ""
    write(tmp_path, "proc/net/route", IPV4 + DEFAULT + LOCAL)
    assert watch.trouble() == ""
    write(tmp_path, "proc/net/route", IPV4 + LOCAL)
    assert watch.trouble() == "the default route is gone"
    write(tmp_path, "proc/net/route", IPV4 + DEFAULT)
    assert watch.trouble() == ""


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1:7481", True),
        ("[::1]:7481", True),
        ("localhost:1", True),
        ("10.0.0.1:7481", False),
        ("[fd00::1]:7481", False),
        ("cloud.example:7481", False),
    ],
)
def test_an_address_of_this_host_itself_is_known(address, here):
    assert network.leads_here(address) is here


def test_the_interfaces_of_this_host_are_told():
    assert network.running_interfaces()

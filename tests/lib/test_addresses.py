"""Which addresses are public, in all their spellings."""

import pytest

from nacre.errors import InvalidInputError
from nacre.lib.addresses import AddressGuard, parse_networks


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "192.0.0.8", "192.0.2.1", "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.1", "240.0.0.1",
        "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "2001:db8::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe", "100::1", "localhost", "", "2130706433", "0x7f.1",
    ],
)  # fmt: skip
def test_private_local_and_reserved_addresses_are_refused(address: str) -> None:
    assert not AddressGuard().permits(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_permitted(address: str) -> None:
    assert AddressGuard().permits(address)


def test_an_operator_may_allow_networks() -> None:
    guard = AddressGuard(parse_networks(["10.1.0.0/16", "fd00::/8", "127.0.0.1"]))
    assert all(guard.permits(each) for each in ("10.1.2.3", "fd12::1", "127.0.0.1", "::ffff:10.1.2.3"))
    assert not any(guard.permits(each) for each in ("10.2.0.1", "127.0.0.2", "169.254.169.254", "::1"))


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        parse_networks(["10.0.0.0/33"])

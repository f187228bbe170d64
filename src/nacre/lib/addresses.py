"""Which addresses may be connected to on behalf of a user: public ones, and what an operator has allowed.

Used by `lib/fetch.py` when it connects, with the address that is really connected to. Pure.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from nacre.errors import InvalidInputError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_COMPATIBLE = IPv6Network("::/96")
_NEVER_PUBLIC: tuple[Network, ...] = (
    IPv4Network("0.0.0.0/8"),
    IPv4Network("10.0.0.0/8"),
    IPv4Network("100.64.0.0/10"),
    IPv4Network("127.0.0.0/8"),
    IPv4Network("169.254.0.0/16"),  # link-local, where clouds answer with secrets
    IPv4Network("172.16.0.0/12"),
    IPv4Network("192.0.0.0/24"),
    IPv4Network("192.0.2.0/24"),
    IPv4Network("192.88.99.0/24"),
    IPv4Network("192.168.0.0/16"),
    IPv4Network("198.18.0.0/15"),
    IPv4Network("198.51.100.0/24"),
    IPv4Network("203.0.113.0/24"),
    IPv4Network("224.0.0.0/3"),
    IPv6Network("100::/64"),
    IPv6Network("2001:db8::/32"),
    IPv6Network("3fff::/20"),
    _NAT64_LOCAL,
)
_PUBLIC_V6 = IPv6Network("2000::/3")  # all that IANA has given out


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Return networks from CIDR text. Raises InvalidInputError."""
    networks: list[Network] = []
    for text in texts:
        try:
            networks.append(ip_network(text, strict=False))
        except ValueError as error:
            raise InvalidInputError(
                "invalid_network", f"{text!r} is not a network", hint="write it as 10.0.0.0/8 or fd00::/8"
            ) from error
    return tuple(networks)


@dataclass(frozen=True)
class AddressGuard:
    """The rule: public addresses, and those in `allowed`."""

    allowed: tuple[Network, ...] = ()

    def permits(self, text: str) -> bool:
        """Whether `text` is an address that may be connected to. What is not an address may not."""
        try:
            address = ip_address(text)
        except ValueError:
            return False
        inner = _embedded(address)
        listed = any(each in network for each in (address, inner) for network in self.allowed)
        return listed or (_is_public(inner) and (inner is address or not _is_denied(address)))


def _is_denied(address: Address) -> bool:
    return any(address in network for network in _NEVER_PUBLIC)


def _is_public(address: Address) -> bool:
    if _is_denied(address):
        return False
    return isinstance(address, IPv4Address) or (address in _PUBLIC_V6 and address.scope_id is None)


def _embedded(address: Address) -> Address:
    """Return the IPv4 address that a packet to `address` ends up at, if it is one of the wrappings of IPv4."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (address in _COMPATIBLE and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address

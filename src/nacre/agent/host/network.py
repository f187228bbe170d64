"""Whether this host is on a network. Called through `agent/reporting`; blocking, cheap.

A host is off the network when no interface but loopback runs, when the interface of its default route does not, or
when it has lost the default route that it had since the agent started. A host that never had one may be a lab without
a way out, which is not for us to call wrong.
"""

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from pathlib import Path

import psutil

from nacre.agent.host.files import text

_UP, _REJECT = 0x1, 0x200
_IPV4_ANY = "00000000"
_IPV6_ANY = "0" * 32

Running = Callable[[], Mapping[str, bool]]


def running_interfaces() -> dict[str, bool]:
    """Return the interfaces of this host, and whether each runs: it is up and has a carrier."""
    return {name: bool(stats.isup) for name, stats in psutil.net_if_stats().items()}


def default_interfaces(root: Path) -> frozenset[str]:
    """Return the interfaces that default routes lead through."""
    found: set[str] = set()
    for line in text(root / "proc/net/route").splitlines()[1:]:
        words = line.split()
        if len(words) >= 8 and words[1] == words[7] == _IPV4_ANY and int(words[3], 16) & _UP:
            found.add(words[0])
    for line in text(root / "proc/net/ipv6_route").splitlines():
        words = line.split()
        if len(words) >= 10 and words[0] == _IPV6_ANY and words[1] == "00" and not int(words[8], 16) & _REJECT:
            found.add(words[9])
    return frozenset(found - {"lo"})


def leads_here(address: str) -> bool:
    """Whether `host:port` is this host, by its name or address."""
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NetworkWatch:
    """Looks at the network of this host, and remembers whether it has led anywhere."""

    def __init__(self, root: Path = Path("/"), running: Running = running_interfaces) -> None:
        self._root = root
        self._running = running
        self._had_default = False

    def trouble(self) -> str:
        """Say why this host is off the network; empty if it is on it."""
        runs = {name for name, up in self._running().items() if up and name not in {"lo", "lo0"}}
        default = default_interfaces(self._root)
        if not runs:
            return "no network interface is up"
        if default and not default & runs:
            return f"the interface of the default route, {', '.join(sorted(default))}, is down"
        if default:
            self._had_default = True
        elif self._had_default:
            return "the default route is gone"
        return ""

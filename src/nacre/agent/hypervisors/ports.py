"""Whether published ports can be listened on here. Asked by the drivers before a start, and to explain a failed one.

Binds each port for a moment and lets go. Never keeps one.
"""

import errno
import socket
from collections.abc import Iterable

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass
from nacre.model.vms import PublishedPort, TransportProtocol


def check_free(ports: Iterable[PublishedPort]) -> None:
    """Raise DriverError naming the first port that cannot be listened on, and why."""
    for port in ports:
        try:
            _try(port)
        except OSError as error:
            raise refusal(port, error.errno) from error


def refusal(port: PublishedPort, number: int | None) -> DriverError:
    """Return the error for a port that the host's kernel refuses with errno `number`."""
    where = f"{port.protocol} port {port.host_port} on {port.host_address}"
    match number:
        case errno.EACCES | errno.EPERM:
            return DriverError(
                "port_not_permitted",
                f"the node's agent may not listen on {where}",
                hint="publish a port from 1024 upwards, or run the agent with CAP_NET_BIND_SERVICE",
                failure_class=FailureClass.BLOCKED,
            )
        case errno.EADDRNOTAVAIL | errno.EAFNOSUPPORT:
            return DriverError(
                "address_not_here",
                f"{port.host_address} is not an address of the node",
                hint="publish on an address that the node has, on 127.0.0.1 or on 0.0.0.0",
                failure_class=FailureClass.PERMANENT,
            )
        case _:
            # The platform's own ports never clash (placement saw to that), so it is a stranger who may leave again.
            return DriverError(
                "port_in_use",
                f"{where} is already in use on the node",
                hint=f"stop what listens there (ss -lnp 'sport = :{port.host_port}'), or publish another host port",
            )


def _try(port: PublishedPort) -> None:
    family = socket.AF_INET6 if ":" in port.host_address else socket.AF_INET
    stream = port.protocol is TransportProtocol.TCP
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as probe:
        if stream:
            # Connections that are still winding down do no harm; a listener does, with this option too. For UDP the
            # option would let two guests share a port without anyone noticing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        probe.bind((port.host_address, port.host_port))
        if stream:
            probe.listen(1)

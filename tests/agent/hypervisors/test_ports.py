"""Whether ports can be listened on."""

import errno
import socket

import pytest

from nacre.agent.hypervisors import ports
from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass
from nacre.model.vms import PublishedPort, TransportProtocol
from support.platform import free_port


def port(number: int, address: str = "127.0.0.1", protocol: TransportProtocol = TransportProtocol.TCP) -> PublishedPort:
    return PublishedPort(guest_port=80, host_port=number, host_address=address, protocol=protocol)


def test_free_ports_stay_free() -> None:
    number = free_port()
    for _ in range(2):
        ports.check_free([port(number), port(number, protocol=TransportProtocol.UDP), port(number, "::1")])


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_listener_is_in_the_way(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(DriverError) as caught:
        ports.check_free([port(server.getsockname()[1], address)])
    assert caught.value.code == "port_in_use"
    assert caught.value.failure_class is FailureClass.TRANSIENT


def test_a_shared_udp_port_is_in_the_way_even_if_its_holder_would_share_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        with pytest.raises(DriverError) as caught:
            ports.check_free([port(holder.getsockname()[1], protocol=TransportProtocol.UDP)])
    assert caught.value.code == "port_in_use"


@pytest.mark.parametrize(
    ("number", "code", "failure_class"),
    [
        (errno.EACCES, "port_not_permitted", FailureClass.BLOCKED),
        (errno.EADDRNOTAVAIL, "address_not_here", FailureClass.PERMANENT),
        (errno.EADDRINUSE, "port_in_use", FailureClass.TRANSIENT),
        (None, "port_in_use", FailureClass.TRANSIENT),
    ],
)
def test_each_refusal_of_the_kernel_has_its_class_and_hint(number, code, failure_class) -> None:
    error = ports.refusal(port(80), number)
    assert (error.code, error.failure_class) == (code, failure_class)
    assert error.hint

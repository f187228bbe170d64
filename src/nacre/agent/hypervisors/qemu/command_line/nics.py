"""NICs: what carries the packets, and the device that the guest sees. Pure; the same parts are used for hot plug."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from nacre.agent.hypervisors import traffic
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch, MacvtapNic, Nic, TapNic, UserNic, VhostUserNic
from nacre.agent.hypervisors.qemu.command_line import bus, words
from nacre.agent.hypervisors.qemu.command_line.places import chardev_of, device_of
from nacre.agent.hypervisors.qemu.command_line.refusal import no_segments, refused
from nacre.agent.hypervisors.qemu.command_line.surroundings import TapFds
from nacre.agent.hypervisors.qemu.command_line.words import Props, Value
from nacre.model.hardware import NO_LIMITS, NicOptions, RateLimits

IOMMU = "iommu0"
_QUEUE_SIZES = (256, 512, 1024)
_UNLIMITED: dict[type[Nic], str] = {
    UserNic: "its packets go through no device of the node, only through QEMU",
    MacvtapNic: "the node limits taps, not macvtap interfaces",
    VhostUserNic: "another process serves it, which alone can limit it",
}
_SEND_QUEUE = 256  # more only where another process takes the packets (virtio-net.c)


@dataclass(frozen=True, kw_only=True)
class NicParts:
    """A NIC as QMP takes it: in this order, and taken away in the opposite one."""

    socket: Path | None
    """Where another process serves it."""
    server: bool
    netdev: Props
    device: Props


def nics(launch: Launch, taken: Mapping[str, int], fds: Mapping[str, TapFds]) -> list[str]:
    """Return the words of all NICs. `fds` are those of taps, by the NIC's name. Raises DriverError."""
    found: list[str] = []
    if any(nic.options.iommu for nic in launch.nics):
        found += words.device({"driver": "virtio-iommu-pci", "id": IOMMU, **bus.fixed(launch.machine, IOMMU)})
    for nic in launch.nics:
        made = parts(nic, launch.name, bus.place(launch.machine, taken[nic.id]), fds.get(nic.id))
        if made.socket is not None:
            server: Props = {"server": True} if made.server else {}
            props: Props = {"id": chardev_of(nic.id), "path": str(made.socket), **server}
            found += ["-chardev", words.joined("socket", props)]
        found += words.netdev(made.netdev) + words.device(made.device)
    return found


def parts(nic: Nic, name: str, place: Props, fds: TapFds | None, names: tuple[str, ...] = ()) -> NicParts:
    """Return the parts of a NIC. Taps are descriptors: numbers of the process, or `names` given to it over QMP."""
    check(nic)
    socket = nic.socket if isinstance(nic, VhostUserNic) else None
    server = nic.server if isinstance(nic, VhostUserNic) else False
    netdev = {"id": nic.id, **_backend(nic, name, fds, names)}
    # No romfile: nothing here boots from the network, and reading the option ROM takes time.
    device: Props = {"driver": "virtio-net-pci", "id": device_of(nic.id), "netdev": nic.id, "mac": nic.mac}
    return NicParts(
        socket=socket,
        server=server,
        netdev=netdev,
        device={**device, "romfile": "", **_tuning(nic), **place},
    )


def check(nic: Nic) -> None:
    """Raise DriverError for what QEMU cannot do with a NIC."""
    options = nic.options
    if options.pci_segment:
        raise no_segments(f"NIC {nic.id}")
    if options.queue_size not in _QUEUE_SIZES:
        raise refused(
            "queue_size_invalid",
            f"NIC {nic.id}: QEMU's queues hold 256, 512 or 1024 packets, not {options.queue_size}",
            "use one of these",
        )
    check_limits(nic, options.receive_limits, options.send_limits)
    if isinstance(nic, UserNic):
        _check_user(nic)


def check_limits(nic: Nic, receive: RateLimits, send: RateLimits) -> None:
    """Raise DriverError for limits that neither QEMU nor the node's kernel keeps."""
    if (receive, send) == (NO_LIMITS, NO_LIMITS):
        return
    if not isinstance(nic, TapNic):
        raise no_limits(nic.id, _UNLIMITED[type(nic)])
    traffic.check(nic.id, receive, send)


def no_limits(nic: str, why: str) -> DriverError:
    """Return the error for limits of a NIC."""
    return refused(
        "nic_limits_unsupported",
        f"NIC {nic} cannot be limited: {why}",
        "leave the limits out, limit it inside the guest, or connect the NIC to a network of the node",
    )


def _check_user(nic: UserNic) -> None:
    for port in nic.publish:
        if ip_address(port.host_address).version == 6:
            raise refused(
                "ipv6_publish_unsupported",
                f"QEMU's user-mode network publishes on IPv4 addresses only, not on {port.host_address}",
                "publish on 127.0.0.1, 0.0.0.0 or another IPv4 address of the node",
            )
    if nic.options.queues > 1 or nic.options.host_mac is not None:
        raise refused(
            "user_network_limited",
            f"NIC {nic.id}: a user-mode network has one queue, and no address on the node's side",
            "leave both unset, or connect the NIC to a network of the node",
        )


def _backend(nic: Nic, name: str, fds: TapFds | None, names: tuple[str, ...]) -> Props:
    match nic:
        case UserNic():
            publish = [f"{p.protocol}:{p.host_address}:{p.host_port}-:{p.guest_port}" for p in nic.publish]
            forwards: Props = {"hostfwd": [{"str": rule} for rule in publish]} if publish else {}
            return {"type": "user", **_hostname(name), **forwards}
        case VhostUserNic():
            return {"type": "vhost-user", "chardev": chardev_of(nic.id), "queues": nic.options.queues}
        case _:
            taps = names or tuple(str(fd) for fd in (fds.tap if fds is not None else ()))
            if len(taps) != nic.options.queues:
                raise refused(
                    "tap_unavailable", f"NIC {nic.id}: its network device was not opened", "report this as a bug"
                )
            vhost = tuple(str(fd) for fd in fds.vhost) if fds is not None else ()
            return {"type": "tap", **_fds("fd", taps), **({"vhost": True, **_fds("vhostfd", vhost)} if vhost else {})}


def _fds(key: str, fds: tuple[str, ...]) -> Props:
    return {key: fds[0]} if len(fds) == 1 else {f"{key}s": ":".join(fds)}


def _tuning(nic: Nic) -> Props:
    options = nic.options
    found: dict[str, Value] = {}
    if options.mtu is not None:
        found["host_mtu"] = options.mtu
    if options.queues > 1:
        # One interrupt per queue, one for its configuration and one for control.
        found |= {"mq": True, "vectors": 2 * options.queues + 2}
    if options.queue_size != _SEND_QUEUE:
        found["rx_queue_size"] = options.queue_size
        if isinstance(nic, VhostUserNic):
            found["tx_queue_size"] = options.queue_size
    found |= dict.fromkeys(_off(options), False)
    if options.iommu:
        found |= {"iommu_platform": True, "disable-legacy": "on"}  # old drivers know nothing of it
    return found


def _off(options: NicOptions) -> list[str]:
    """Name what the guest may not leave to the host. Cutting segments takes computing their checksums."""
    names: list[str] = []
    if not options.checksum:
        names += ["csum", "guest_csum"]
    if not (options.tso and options.checksum):
        names += ["host_tso4", "host_tso6", "host_ecn", "guest_tso4", "guest_tso6", "guest_ecn"]
    if not (options.ufo and options.checksum):
        names += ["host_ufo", "guest_ufo"]
    return names


def _hostname(name: str) -> Props:
    """What DHCP tells the guest that it is called."""
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in name)[:63].strip("-")
    return {"hostname": plain} if plain else {}

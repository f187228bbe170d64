"""What has gone through the devices of a guest. Called by `guest`.

QEMU counts what disks do. NICs it does not count: those on a tap or macvtap are counted by the host, from its own point
of view; those of a user-mode network by nobody.
"""

from pathlib import Path

from nacre.agent.hypervisors.abilities import DeviceCounters, GuestCounters
from nacre.agent.hypervisors.launch import MacvtapNic, Nic, TapNic
from nacre.agent.hypervisors.qemu import answers
from nacre.agent.hypervisors.qemu.talk import Talk

_PERIPHERAL = "/machine/peripheral/"
_DEVICES = Path("/sys/class/net")


async def counters(talk: Talk, nics: tuple[Nic, ...]) -> GuestCounters:
    """Ask QEMU and the host."""
    found = await talk.ask(list[answers.BlockStats], "query-blockstats")
    disks = tuple(_disk(one) for one in found if one.qdev.startswith(_PERIPHERAL))
    counted = tuple(made for nic in nics if (made := _nic(nic)) is not None)
    return GuestCounters(disks=disks, nics=counted)


def _disk(found: answers.BlockStats) -> DeviceCounters:
    device = found.qdev.removeprefix(_PERIPHERAL).partition("/")[0]
    return DeviceCounters(
        id=device.removesuffix("-device"),
        read_bytes=found.stats.rd_bytes,
        written_bytes=found.stats.wr_bytes,
        reads=found.stats.rd_operations,
        writes=found.stats.wr_operations,
    )


def _nic(nic: Nic) -> DeviceCounters | None:
    match nic:
        case TapNic():  # what the host receives there, the guest has sent
            device, received, sent = nic.device, "tx", "rx"
        case MacvtapNic():
            device, received, sent = _named(nic.device.name.removeprefix("tap")), "rx", "tx"
        case _:
            return None
    return DeviceCounters(
        id=nic.id,
        read_bytes=_count(device, f"{received}_bytes"),
        written_bytes=_count(device, f"{sent}_bytes"),
        reads=_count(device, f"{received}_packets"),
        writes=_count(device, f"{sent}_packets"),
    )


def _named(index: str) -> str:
    """Find an interface by its number."""
    for entry in _DEVICES.iterdir():
        if (entry / "ifindex").read_text().strip() == index:
            return entry.name
    return ""


def _count(device: str, name: str) -> int:
    try:
        return int((_DEVICES / device / "statistics" / name).read_text())
    except FileNotFoundError:
        return 0

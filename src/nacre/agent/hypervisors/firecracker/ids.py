"""Our ids as Firecracker takes them, and back. Pure. Used by `config` and `guest`.

A device is called by ASCII letters, digits and underscores, the machine by letters, digits and hyphens: a name of ours
that holds a hyphen is legal for one and not for the other.
"""

import re
import string

from nacre.model.ids import VmId

_PLAIN = frozenset((string.ascii_letters + string.digits).encode())
_ESCAPE = "_"
_MOST = 64
_MACHINE = re.compile(rf"[A-Za-z0-9-]{{1,{_MOST}}}")
_DEVICE = re.compile(r"([A-Za-z0-9]|_[0-9a-f]{2})+")


def device(name: str) -> str:
    """Return the id of a disk or NIC of ours. No two names have the same. Raises ValueError for an empty name."""
    if not name:
        raise ValueError("a device has a name")
    return "".join(chr(byte) if byte in _PLAIN else f"{_ESCAPE}{byte:02x}" for byte in name.encode())


def name(device_id: str) -> str:
    """Return the name that has this id. Raises ValueError if none has."""
    if not _DEVICE.fullmatch(device_id):
        raise ValueError(f"{device_id!r} is no id of ours")
    plain = re.sub(rb"_([0-9a-f]{2})", lambda found: bytes.fromhex(found.group(1).decode()), device_id.encode())
    found = plain.decode()
    if device(found) != device_id:  # what need not be escaped is not
        raise ValueError(f"{device_id!r} is no id of ours")
    return found


def machine(vm: VmId) -> str:
    """Return what a machine is called in its process. Raises ValueError for an id that Firecracker would not take."""
    if not _MACHINE.fullmatch(vm):
        raise ValueError(f"{vm!r} is no id for a machine")
    return vm

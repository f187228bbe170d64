"""The medium that a guest's cloud-init reads: an ISO with the label CIDATA (the NoCloud data source).

The same content gives the same bytes. May hold secrets: readable by the agent and the hypervisor alone.
https://cloudinit.readthedocs.io/en/latest/reference/datasources/nocloud.html
"""

import io
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pycdlib
import yaml

from nacre.lib.files import write_atomically
from nacre.model import identity
from nacre.model.guests import CloudInit
from nacre.model.ids import VmId

FILE_NAME = "seed.iso"
_LABEL = "CIDATA"
_SECTOR = 2048
_FIRST_DESCRIPTOR = 16
_PRIMARY, _SUPPLEMENTARY, _TERMINATOR = 1, 2, 255
_ROOT_RECORD = 156
_RECORD_DATE = 18
_RECORD_DATE_BYTES = 7
_VOLUME_DATES = 813
_VOLUME_DATE_BYTES = 17
_EPOCH = bytes((70, 1, 1, 0, 0, 0, 0))
_NO_DATE = b"0" * 16 + b"\0"
_DEFAULT_USER = "default"


def write(path: Path, vm: VmId, given: CloudInit) -> None:
    """Put the medium at `path`, in place of an older one. May be repeated. Raises OSError. Blocks for a moment."""
    content = image(vm, given)
    if path.exists() and path.read_bytes() == content:
        return
    write_atomically(path, content, mode=0o600)


def image(vm: VmId, given: CloudInit) -> bytes:
    """Return the ISO. Pure."""
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, vol_ident=_LABEL, joliet=3)
    for number, (name, text) in enumerate(sorted(files(vm, given).items())):
        content = text.encode()
        iso.add_fp(io.BytesIO(content), len(content), f"/FILE{number}.;1", joliet_path=f"/{name}")
    out = io.BytesIO()
    iso.write_fp(out)
    iso.close()
    return _timeless(bytearray(out.getvalue()))


def files(vm: VmId, given: CloudInit) -> Mapping[str, str]:
    """Return name and content of what is on the medium. Pure.

    What the machine's own options ask for is vendor data, so that the user data stays as it was given and wins.
    """
    found = {
        "meta-data": _yaml({**given.meta_data, **_meta_data(vm, given)}),
        "user-data": given.user_data or "#cloud-config\n{}\n",
        "vendor-data": identity.with_hook("#cloud-config\n" + _yaml(_vendor_data(given)), given),
    }
    if given.network_config:
        found["network-config"] = given.network_config
    return found


def instance_id(vm: VmId, given: CloudInit) -> str:
    """Return what tells cloud-init whether this is a guest that it has set up already. Pure."""
    return f"{vm}-{given.identity}" if given.identity else vm


def _meta_data(vm: VmId, given: CloudInit) -> dict[str, object]:
    found: dict[str, object] = {"instance-id": instance_id(vm, given)}
    if given.hostname:
        found["local-hostname"] = given.hostname
    if given.ssh_keys:
        found["public-keys"] = list(given.ssh_keys)
    return found


def _vendor_data(given: CloudInit) -> dict[str, object]:
    found = dict(identity.config(given))
    if given.user:
        found["user"] = {"name": given.user} if not given.password_hash else _with_password(given, given.user)
    elif given.password_hash:
        found["user"] = _with_password(given, None)
    if given.user or given.ssh_keys or given.password_hash:
        found["users"] = [_DEFAULT_USER]
    if given.ssh_keys:
        found["ssh_authorized_keys"] = list(given.ssh_keys)
    if given.hostname:
        found["hostname"] = given.hostname
        found["preserve_hostname"] = False
    return found


def _with_password(given: CloudInit, name: str | None) -> dict[str, object]:
    named = {"name": name} if name else {}
    return {**named, "passwd": given.password_hash, "lock_passwd": False}


def _yaml(value: Mapping[str, object]) -> str:
    return yaml.safe_dump(msgspec.to_builtins(value), sort_keys=True, default_flow_style=False, allow_unicode=True)


def _timeless(iso: bytearray) -> bytes:
    """Replace every time in the image by the beginning of 1970 (ECMA-119, 8.4.26 and 9.1.5)."""
    sector = _FIRST_DESCRIPTOR
    while (kind := iso[sector * _SECTOR]) != _TERMINATOR:
        if kind in {_PRIMARY, _SUPPLEMENTARY}:
            base = sector * _SECTOR
            for number in range(4):
                start = base + _VOLUME_DATES + number * _VOLUME_DATE_BYTES
                iso[start : start + _VOLUME_DATE_BYTES] = _NO_DATE
            for record in (base + _ROOT_RECORD, *_records(iso, base + _ROOT_RECORD)):
                start = record + _RECORD_DATE
                iso[start : start + _RECORD_DATE_BYTES] = _EPOCH
        sector += 1
    return bytes(iso)


def _records(iso: bytearray, root: int) -> Iterator[int]:
    """Yield where the records of a folder begin."""
    extent, length = (struct.unpack_from("<I", iso, root + offset)[0] for offset in (2, 10))
    place, end = extent * _SECTOR, extent * _SECTOR + length
    while place < end:
        size = iso[place]
        if size:
            yield place
            place += size
        else:
            place = (place // _SECTOR + 1) * _SECTOR

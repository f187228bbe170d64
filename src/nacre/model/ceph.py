"""Pools of a Ceph cluster: where it is and as whom it is reached. Used by every layer. Pure.

What holds a key does not show it: not when it is printed, and not in an answer of the API, which has a `CephCluster`.
"""

import base64
import binascii
import re

import msgspec

from nacre.errors import InvalidInputError

MAX_MONITORS = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)
_MONITOR = re.compile(r"(v[12]:)?([A-Za-z0-9][A-Za-z0-9.-]{0,252}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?", re.ASCII)
_KEY_LINE = re.compile(r"^\s*key\s*=\s*(\S+)\s*$", re.MULTILINE)
_KEY_BYTES = range(16, 513)


class CephCluster(msgspec.Struct, frozen=True, kw_only=True):
    """A cluster and who asks there. May be shown."""

    monitors: tuple[str, ...]
    """Addresses, such as `10.0.0.1` or `v2:[fd00::1]:3300`."""
    user: str
    """Without `client.` before it."""


class CephAccess(CephCluster, frozen=True, kw_only=True):
    """A cluster with the key to it. For the nodes that use it, and nobody else."""

    key: str

    def __repr__(self) -> str:
        """Say all but the key."""
        return f"CephAccess(monitors={self.monitors!r}, user={self.user!r}, key=…)"


def check_access(access: CephAccess, field: str = "ceph") -> CephAccess:
    """Return it if its form is right. Raises InvalidInputError with the path of the field."""
    for index, monitor in enumerate(access.monitors):
        if not _MONITOR.fullmatch(monitor):
            raise InvalidInputError(
                "invalid_monitor",
                f"{monitor!r} is no address of a monitor",
                hint="give a host or an address, with its port unless it is the usual one: 10.0.0.1, v2:[fd00::1]:3300",
                field=f"{field}.monitors[{index}]",
            )
    if not _NAME.fullmatch(access.user):
        raise InvalidInputError(
            "invalid_ceph_user",
            f"{access.user!r} is no user of a cluster",
            hint="give its name without `client.` before it",
            field=f"{field}.user",
        )
    if not _is_key(access.key):
        raise InvalidInputError(
            "invalid_ceph_key",
            "this is not the key of a user of a cluster",
            hint="give what `ceph auth get-key client.NAME` prints",
            field=f"{field}.key",
        )
    return access


def check_pool(name: str) -> str:
    """Return the name of a pool in a cluster if it may be one. Raises InvalidInputError."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "invalid_ceph_pool",
            f"{name!r} is no name of a pool in a cluster",
            hint="give the pool's name as `ceph osd pool ls` prints it: letters, digits, dots, dashes and underscores",
            field="path",
        )
    return name


def key_in(text: str) -> str:
    """Return the key in the content of a keyring, or of a file with nothing but the key."""
    found = _KEY_LINE.search(text)
    return found[1] if found else text.strip()


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) in _KEY_BYTES
    except (binascii.Error, ValueError):
        return False

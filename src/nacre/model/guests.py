"""What goes into a guest at its first start, and what is seen inside it.

`CloudInit` is what a guest's cloud-init is given; it may hold secrets, so it is kept apart from the machine's spec,
which has only a `SeedRef`. `GuestInfo` is what the agent in a guest says. Pure.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, cast

import msgspec
import yaml

from nacre.errors import InvalidInputError

MAX_USER_DATA = 64 << 10
MAX_NETWORK_CONFIG = 16 << 10
MAX_META = 32
MAX_KEYS = 64
MAX_KEY_LENGTH = 16 << 10
OWN_META = frozenset({"instance-id", "local-hostname", "public-keys"})
"""Keys of the meta-data that are Nacre's to say."""

_INNER = frozenset({"identity", "random_seed"})
"""Fields that nobody has given."""
_HASH = re.compile(r"^\$[0-9a-z]{1,8}\$[./A-Za-z0-9$=,]{8,200}$")
_KEY = re.compile(r"^(ssh-|ecdsa-|sk-)[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [^\r\n]*)?$")
_OTHER_KINDS = ("#!", "#include", "#cloud-boothook", "#cloud-config-archive", "#part-handler", "## template: jinja")
_MIME = ("content-type:", "mime-version:")
_YAML_START = "#cloud-config"
_HOSTNAME = r"^([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$"
_USER = r"^[a-z_][a-z0-9_-]{0,31}$"

Hostname = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^$|{_HOSTNAME}",
        max_length=253,
        extra={"expects": "a host name: letters, digits and hyphens, and dots between its parts"},
    ),
]
UserName = Annotated[
    str,
    msgspec.Meta(
        pattern=rf"^$|{_USER}",
        max_length=32,
        extra={"expects": "lower-case letters, digits, underscores and hyphens, with a letter or underscore first"},
    ),
]


class CloudInit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What cloud-init in the guest is given, at its first start and whenever this has changed."""

    user_data: str = ""
    meta_data: dict[str, str] = {}
    network_config: str = ""
    hostname: str = ""
    user: str = ""
    ssh_keys: tuple[str, ...] = ()
    password_hash: str = ""
    identity: str = ""
    """Makes a guest that has another identity than the one whose disk it has: another instance for cloud-init."""
    random_seed: str = ""
    """For a guest with another identity: what is mixed into its pool of randomness, in base64."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is given."""
        return tuple(name for name in self.__struct_fields__ if name not in _INNER and getattr(self, name))


class SeedRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be shown of a `CloudInit`."""

    digest: str
    """Names exactly this content, without telling anything of it."""
    parts: tuple[str, ...] = ()
    """What is given: `user_data`, `ssh_keys` and so on."""
    hostname: str = ""
    """What the guest calls itself; empty if that is not given here."""
    user: str = ""
    """The name of the first user; empty for the one of the image."""


class GuestAddress(msgspec.Struct, frozen=True, kw_only=True):
    """An address that a guest has."""

    address: str
    """IPv4 or IPv6."""
    prefix: int
    """Length of the prefix of its network, in bits."""
    interface: str
    """As the guest calls it."""
    mac: str = ""
    """Of the interface."""
    nic: str = ""
    """Which of the machine's NICs that is: `nic0`; empty for an interface that is none of them."""


class GuestFilesystem(msgspec.Struct, frozen=True, kw_only=True):
    """A file system that a guest has mounted."""

    mountpoint: str
    """Where it is mounted."""
    type: str
    """As the guest calls it, such as `ext4`."""
    total_bytes: int | None = None
    """Its size; null if the guest does not say."""


class GuestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent in a guest says. Believed as far as the guest is believed: it decides nothing."""

    answering: bool = True
    """False when it has answered in this life and does not any more."""
    agent_version: str = ""
    """Of the agent in the guest."""
    hostname: str = ""
    """What the guest calls itself."""
    os: str = ""
    """As the guest's distribution calls itself."""
    kernel: str = ""
    """Release of its kernel."""
    addresses: tuple[GuestAddress, ...] = ()
    """The loopback ones left out."""
    filesystems: tuple[GuestFilesystem, ...] = ()
    """Those in memory left out."""
    booted_at: datetime | None = None
    """By the uptime of the guest; null if it does not say."""
    seen_at: datetime
    """When it was first seen like this. It is looked at again every few seconds."""


def check_cloud_init(given: CloudInit, field: str = "cloud_init") -> CloudInit:
    """Return it if a cloud-init can read it. Raises InvalidInputError with the path of the field."""
    _check_size(given.user_data, MAX_USER_DATA, f"{field}.user_data")
    _check_size(given.network_config, MAX_NETWORK_CONFIG, f"{field}.network_config")
    _check_user_data(given.user_data, f"{field}.user_data")
    if given.network_config:
        _mapping(given.network_config, f"{field}.network_config")
    _check_meta(given.meta_data, f"{field}.meta_data")
    for index, key in enumerate(given.ssh_keys):
        if len(key) > MAX_KEY_LENGTH or not _KEY.match(key):
            raise _invalid(
                "invalid_ssh_key",
                "this is not a public SSH key",
                "give the one line of a .pub file, such as `ssh-ed25519 AAAA... name`",
                f"{field}.ssh_keys[{index}]",
            )
    if given.password_hash and not _HASH.match(given.password_hash):
        raise _invalid(
            "invalid_password_hash",
            "this is not the hash of a password",
            "make one with `openssl passwd -6`, or give `password` instead",
            f"{field}.password_hash",
        )
    return given


def _check_size(text: str, most: int, field: str) -> None:
    if len(text.encode()) > most or "\0" in text:
        raise _invalid(
            "cloud_init_too_large",
            f"this may be text of up to {most >> 10} KiB",
            "let the guest fetch what is large: `#include` with a URL, or a command",
            field,
        )


def _check_user_data(text: str, field: str) -> None:
    if not text:
        return
    first = text.lstrip("\ufeff").split("\n", 1)[0].rstrip("\r ")
    if first == _YAML_START:
        _mapping(text, field)
        return
    if first.startswith(_OTHER_KINDS) or first.lower().startswith(_MIME):
        return
    raise _invalid(
        "invalid_user_data",
        "cloud-init would not know what this is: its first line does not say",
        "begin with #cloud-config, #! and an interpreter, #include, or the headers of a MIME message",
        field,
    )


def _check_meta(meta: Mapping[str, str], field: str) -> None:
    if len(meta) > MAX_META:
        raise _invalid("invalid_meta_data", f"there may be {MAX_META} keys", "leave some out", field)
    for key, value in meta.items():
        if key in OWN_META:
            raise _invalid(
                "reserved_meta_data", f"{key} is set by Nacre", "use hostname and ssh_keys", f"{field}.{key}"
            )
        if not re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", key) or len(value) > 1024 or not value.isprintable():
            raise _invalid(
                "invalid_meta_data",
                "a key has letters, digits and ._-, and a value is one line of up to 1024 characters",
                "put what is longer into user_data",
                f"{field}.{key[:63]}",
            )


def _mapping(text: str, field: str) -> None:
    """Raise InvalidInputError unless it is YAML with keys and values. Says where it is wrong, never what is there."""
    try:
        parsed = cast("object", yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise _invalid(
            "invalid_yaml", f"this is not YAML: it cannot be read{where}", "check its indentation", field
        ) from None
    if parsed is not None and not isinstance(parsed, dict):
        raise _invalid("invalid_yaml", "this has to be keys with values", "write `key: value` lines", field)


def _invalid(code: str, message: str, hint: str, field: str) -> InvalidInputError:
    return InvalidInputError(code, message, hint=hint, field=field)

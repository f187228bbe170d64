"""What an operator decides about a control plane: one TOML file, then the environment, then flags.

Read once by `main`, passed to what needs it. Unknown keys are an error, so a typing mistake is not a silent default.
"""

import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError
from nacre.lib import configuration
from nacre.lib.configuration import split_address
from nacre.protocol.identity import DEFAULT_DOMAIN

ENVIRONMENT_PREFIX = "NACRE_CONTROL_"
_LISTS = frozenset({"image_roots", "fetch_allow", "join_gateways"})
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~-]+)*", re.ASCII)
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one control plane. Times in seconds."""

    data_dir: str
    """Where the database (SQLite), keys, images and the claim are kept. Only its owner may read it."""
    listen: str = "127.0.0.1:7480"
    """Address of the REST API."""
    api_url: str = ""
    """Where new nodes reach the REST API, such as `https://cloud.example`; empty is the address that was asked."""
    gateway_listen: str = "127.0.0.1:7481"
    """Address that agents dial."""
    gateway_advertise: str = ""
    """Where agents reach the gateway of this replica; empty is `gateway_listen`."""
    join_gateways: tuple[str, ...] = ()
    """The gateways of all replicas, for join strings; empty is the one of this replica."""
    database: str = ""
    """`sqlite:///path` or `postgresql://user:password@host/name`; empty is SQLite under `data_dir`."""
    domain: str = DEFAULT_DOMAIN
    """Trust domain of the SPIFFE ids in node certificates."""
    ca_certificate_file: str = ""
    """Your own certificate authority instead of one that is made at the first start: its certificate (PEM)."""
    ca_key_file: str = ""
    """Its key (PEM, not encrypted). Needed at the first start; from then on it is in the database, sealed."""
    enrolment_token_file: str = ""
    """Where to write a fresh join string at each start, for an agent on the same machine."""
    claim_file: str = ""
    """Where to write the one-time claim of the first start; empty is `claim` under `data_dir`."""
    image_roots: tuple[str, ...] = ()
    """Folders whose files may be registered as images by path."""
    fetch_allow: tuple[str, ...] = ()
    """Networks (CIDR) that images may be fetched from although they are private."""
    heartbeat_s: Seconds = 5.0
    """How often agents say that they live."""
    offline_after_s: Seconds = 15.0
    """A node is offline after this silence: at least three heartbeats."""
    lease_s: Seconds = 35.0
    """How long a node may go on running machines with `ha: restart` after it last asked whether it may. They start
    elsewhere no sooner than this after it has fallen silent. What a node was granted before it was made shorter is
    still waited for until the node has been given up once."""
    renew_s: Seconds = 2.0
    """How often a node that has such machines asks: at most a fifth of `lease_s`."""
    failover_per_s: Seconds = 5.0
    """How many machines of lost nodes are started elsewhere per second, over all replicas."""
    failover_max_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """If more than this share of the nodes that were at work fell silent at once, nothing is started elsewhere: it is
    rather the control plane that is cut off. `nacre failover confirm` gives up single nodes all the same."""
    resync_s: Seconds = 30.0
    """How often agents ask for their desired state although nothing rang."""
    node_certificate_s: Seconds = 90 * 86400.0
    """How long a node's certificate is valid; it is replaced when two thirds of that are over."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""

    @property
    def data(self) -> Path:
        """`data_dir` as an absolute path."""
        return Path(self.data_dir).absolute()

    @property
    def database_url(self) -> str:
        """The database to open."""
        return self.database or f"sqlite:///{self.data / 'nacre.db'}"

    @property
    def claim_path(self) -> Path:
        """Where the claim is written."""
        return Path(self.claim_file).absolute() if self.claim_file else self.data / "claim"

    @property
    def gateway_address(self) -> str:
        """Where agents reach the gateway of this replica."""
        return self.gateway_advertise or self.gateway_listen

    @property
    def join_address(self) -> str:
        """What join strings tell agents to dial: one address, or several separated by commas."""
        return ",".join(self.join_gateways) or self.gateway_address


def load(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Return the settings of a file, overridden by the environment, then by flags. Raises InvalidInputError."""
    settings = configuration.load(
        Settings,
        files=() if path is None else (path,),
        environment=environment,
        prefix=ENVIRONMENT_PREFIX,
        flags=flags,
        parse=lambda name, text: configuration.listed(text) if name in _LISTS else text,
        example='listen = "127.0.0.1:7480"',
    )
    return check(settings)


def check(settings: Settings) -> Settings:
    """Return `settings` if they fit together. Raises InvalidInputError naming the setting."""
    for name in ("listen", "gateway_listen"):
        split_address(getattr(settings, name), field=name)
    if settings.gateway_advertise:
        split_address(settings.gateway_advertise, field="gateway_advertise")
    if settings.api_url and not _URL.fullmatch(settings.api_url):
        raise InvalidInputError(
            "invalid_url",
            f"{settings.api_url!r} is not the address of an API",
            hint="write https://cloud.example or http://10.0.0.1:7480, without a slash at the end",
            field="api_url",
        )
    if settings.ca_key_file and not settings.ca_certificate_file:
        raise InvalidInputError(
            "half_a_root",
            "ca_key_file is set and ca_certificate_file is not",
            hint="set ca_certificate_file to the certificate of that key",
            field="ca_certificate_file",
        )
    for index, address in enumerate(settings.join_gateways):
        split_address(address, field=f"join_gateways[{index}]")
    if settings.offline_after_s < 3 * settings.heartbeat_s:
        raise InvalidInputError(
            "offline_too_early",
            f"offline_after_s is {settings.offline_after_s:g}, less than three times {settings.heartbeat_s:g} s",
            hint=f"use {3 * settings.heartbeat_s:g} or more, so that one lost heartbeat is not an outage",
            field="offline_after_s",
        )
    _check_leases(settings)
    for index, network in enumerate(settings.fetch_allow):
        try:
            ip_network(network)
        except ValueError as error:
            raise InvalidInputError(
                "invalid_network",
                f"{network!r} is not a network",
                hint="write it as 10.0.0.0/8 or fd00::/8",
                field=f"fetch_allow[{index}]",
            ) from error
    configuration.check_log_level(settings.log_level)
    return settings


def _check_leases(settings: Settings) -> None:
    """Raise InvalidInputError unless a node that is well keeps its lease, and is missed before its lease has ended."""
    if settings.lease_s <= settings.offline_after_s:
        raise InvalidInputError(
            "lease_too_short",
            f"lease_s is {settings.lease_s:g}, which is not more than offline_after_s, {settings.offline_after_s:g}",
            hint="use more, so that a node is known to be offline before what it ran is started elsewhere",
            field="lease_s",
        )
    if settings.lease_s < 5 * settings.renew_s:
        raise InvalidInputError(
            "lease_too_short",
            f"lease_s is {settings.lease_s:g}, less than five times renew_s, {settings.renew_s:g}",
            hint=f"use {5 * settings.renew_s:g} or more, so that a few lost messages freeze no machine",
            field="lease_s",
        )

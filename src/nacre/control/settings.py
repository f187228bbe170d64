"""What an operator decides about a control plane: one TOML file, then the environment, then flags.

Read once by `main`, passed to what needs it. Unknown keys are an error, so a typing mistake is not a silent default.
"""

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nacre.errors import InvalidInputError
from nacre.protocol.identity import DEFAULT_DOMAIN

ENVIRONMENT_PREFIX = "NACRE_CONTROL_"
_LISTS = frozenset({"image_roots", "fetch_allow", "join_gateways"})
Seconds = Annotated[float, msgspec.Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one control plane. Times in seconds."""

    data_dir: str
    """Where the database (SQLite), keys, images and the claim are kept. Only its owner may read it."""
    listen: str = "127.0.0.1:7480"
    """Address of the REST API."""
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
    values: dict[str, Any] = _read(path) if path is not None else {}
    for name, text in (_from_environment(environment) | dict(flags)).items():
        values[name] = _listed(text) if name in _LISTS else text
    for name in values:
        _known(name)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            "invalid_setting", str(error), hint="see the configuration reference for names and types"
        ) from error
    return check(settings)


def check(settings: Settings) -> Settings:
    """Return `settings` if they fit together. Raises InvalidInputError naming the setting."""
    for name in ("listen", "gateway_listen"):
        split_address(getattr(settings, name), field=name)
    if settings.gateway_advertise:
        split_address(settings.gateway_advertise, field="gateway_advertise")
    for index, address in enumerate(settings.join_gateways):
        split_address(address, field=f"join_gateways[{index}]")
    if settings.offline_after_s < 3 * settings.heartbeat_s:
        raise InvalidInputError(
            "offline_too_early",
            f"offline_after_s is {settings.offline_after_s:g}, less than three times {settings.heartbeat_s:g} s",
            hint=f"use {3 * settings.heartbeat_s:g} or more, so that one lost heartbeat is not an outage",
            field="offline_after_s",
        )
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
    if settings.log_level not in {"debug", "info", "warning", "error"}:
        raise InvalidInputError(
            "invalid_log_level",
            f"{settings.log_level!r} is not a log level",
            hint="use debug, info, warning or error",
            field="log_level",
        )
    return settings


def split_address(address: str, *, field: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises InvalidInputError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInputError(
            "invalid_address",
            f"{address!r} is not an address to listen on",
            hint="write host:port, such as 127.0.0.1:7480 or [::1]:7480",
            field=field,
        )
    return host, int(port)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInputError(
            "unreadable_settings", f"{path}: {error.strerror}", hint="give an existing file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            "unreadable_settings", f"{path} is not TOML: {error}", hint='write lines such as listen = "127.0.0.1:7480"'
        ) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _known(name: str) -> None:
    if name in Settings.__struct_fields__:
        return
    near = get_close_matches(name, Settings.__struct_fields__, n=1)
    raise InvalidInputError(
        "unknown_setting",
        f"there is no setting {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"settings are: {', '.join(Settings.__struct_fields__)}",
        field=name,
    )


def _listed(text: str) -> list[str]:
    return [part for part in text.split(",") if part]

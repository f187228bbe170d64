"""What an operator decides about an agent: TOML, then the environment, then flags.

Without `--config`, `/etc/nacre/agent.toml` is read, and then `agent.toml` in the current folder, which overrides it.
Read once by `main`. Unknown keys are an error, so a typing mistake is not a silent default.
"""

import hashlib
import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import msgspec

from nacre.errors import InvalidInputError

ENVIRONMENT_PREFIX = "NACRE_AGENT_"
SYSTEM_FILE = Path("/etc/nacre/agent.toml")
LOCAL_FILE = Path("agent.toml")
_LISTS = frozenset({"hypervisors", "simulate_zones"})
_TABLES = frozenset({"labels"})
_LEVELS = frozenset({"debug", "info", "warning", "error"})


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one agent. Sizes in bytes."""

    data_dir: str = ""
    """Where disks, images, records and the node's identity are kept. Only its owner may read it."""
    run_dir: str = ""
    """Where sockets are; a short path that need not survive a reboot."""
    join: str = ""
    """The join string of `nacre node token create`; needed once. Not a flag: it is a secret."""
    join_file: str = ""
    """A file with a join string, which may be written after the agent has started; `-` reads it from stdin."""
    node_name: str = ""
    """How the node is called when it enrols; empty is the host's name."""
    labels: dict[str, str] = {}
    """Labels that the node brings along; an operator may add others."""
    region: str = ""
    """Where the node is, in the large; a join token that names a region wins."""
    zone: str = ""
    """Where the node is, in the small: what fails together."""
    hypervisors: tuple[str, ...] = ("qemu",)
    """The drivers to use, best first."""
    image_cache_bytes: Annotated[int, msgspec.Meta(ge=0)] = 20 << 30
    """How much unused images may take; images in use are always kept."""
    probe_kernel: str = ""
    """A kernel to prove hardware acceleration with; empty is the host's own, or that of the first image with one."""
    metrics_listen: str = ""
    """Address to serve metrics on; empty is nowhere."""
    log_level: str = "info"
    """`debug`, `info`, `warning` or `error`."""
    simulate: Annotated[int, msgspec.Meta(ge=0, le=20000)] = 0
    """Be this many nodes instead of one: all in this process, with machines that are not there. 0 is a real agent."""
    simulate_capacity: str = "cpus=16,memory=64GiB,disk=1TiB"
    """What each simulated node has."""
    simulate_zones: tuple[str, ...] = ()
    """Where simulated nodes are, in turn: `region/zone`, such as `eu/a,eu/b`."""
    simulate_boot_s: Annotated[float, msgspec.Meta(ge=0)] = 2.0
    """How long a simulated machine takes to start, on average."""
    simulate_failure_rate: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    """Which share of the starts of simulated machines fails."""
    simulate_socket: str = ""
    """Where a simulation takes orders; empty is `simulation.sock` in the run directory."""

    @property
    def data(self) -> Path:
        """`data_dir` as an absolute path."""
        return Path(self.data_dir or _default_data()).absolute()

    @property
    def run_base(self) -> Path:
        """A folder for what is true until the host reboots, shared by the agents of one user."""
        if self.run_dir:
            return Path(self.run_dir).absolute()
        if os.geteuid() == 0:
            return Path("/run/nacre")
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        return Path(runtime) / "nacre" if runtime else Path(f"/tmp/nacre-{os.geteuid()}")  # noqa: S108  # checked later

    @property
    def run(self) -> Path:
        """Where this agent's sockets are. Derived from the data directory, so two agents never share it."""
        if self.run_dir:
            return self.run_base
        return self.run_base / hashlib.sha256(str(self.data).encode()).hexdigest()[:12]


def load(path: Path | None, environment: Mapping[str, str], flags: Mapping[str, str]) -> Settings:
    """Return the settings of the files, overridden by the environment, then by flags. Raises InvalidInputError."""
    values: dict[str, Any] = {}
    for file in [path] if path is not None else [each for each in (SYSTEM_FILE, LOCAL_FILE) if each.exists()]:
        values |= _read(file)
    for name, text in (_from_environment(environment) | dict(flags)).items():
        values[name] = _parsed(name, text)
    for name in values:
        _check_known(name)
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            "invalid_setting", str(error), hint="see the configuration reference for names and types"
        ) from error
    if settings.log_level not in _LEVELS:
        raise InvalidInputError(
            "invalid_log_level",
            f"{settings.log_level!r} is not a log level",
            hint="use debug, info, warning or error",
            field="log_level",
        )
    if settings.metrics_listen:
        split_address(settings.metrics_listen, field="metrics_listen")
    return settings


def split_address(address: str, *, field: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[v6]:port`. Raises InvalidInputError."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise InvalidInputError(
            "invalid_address",
            f"{address!r} is not an address to listen on",
            hint="write host:port, such as 127.0.0.1:7482",
            field=field,
        )
    return host, int(port)


def _default_data() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/nacre/agent")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local/share") / "nacre/agent"


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise InvalidInputError(
            "unreadable_settings", f"{path}: {error.strerror}", hint="give an existing file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            "unreadable_settings",
            f"{path} is not TOML: {error}",
            hint='write lines such as data_dir = "/var/lib/nacre/agent"',
        ) from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix(ENVIRONMENT_PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(ENVIRONMENT_PREFIX)
    }


def _parsed(name: str, text: str) -> str | list[str] | dict[str, str]:
    """Return what the text of a flag or variable means: `a,b` for lists, `k=v,k=v` for tables."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if name in _LISTS:
        return parts
    if name in _TABLES:
        return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}
    return text


def _check_known(name: str) -> None:
    if name in Settings.__struct_fields__:
        return
    near = get_close_matches(name, Settings.__struct_fields__, n=1)
    raise InvalidInputError(
        "unknown_setting",
        f"there is no setting {name!r}",
        hint=f"did you mean {near[0]}?" if near else f"settings are: {', '.join(Settings.__struct_fields__)}",
        field=name,
    )

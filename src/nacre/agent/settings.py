"""What an operator decides about an agent: TOML, then the environment, then flags.

Without `--config`, `/etc/nacre/agent.toml` is read, and then `agent.toml` in the current folder, which overrides it.
Read once by `main`. Unknown keys are an error, so a typing mistake is not a silent default.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec

from nacre.lib import configuration
from nacre.lib.configuration import listed, split_address

ENVIRONMENT_PREFIX = "NACRE_AGENT_"
SYSTEM_FILE = Path("/etc/nacre/agent.toml")
LOCAL_FILE = Path("agent.toml")
_LISTS = frozenset({"hypervisors", "simulate_zones"})
_TABLES = frozenset({"labels"})


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
    migration_listen: str = "0.0.0.0:0"
    """Address to take machines in on that come from other nodes while they run; port 0 is any free one."""
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
    settings = configuration.load(
        Settings,
        files=(path,) if path is not None else tuple(each for each in (SYSTEM_FILE, LOCAL_FILE) if each.exists()),
        environment=environment,
        prefix=ENVIRONMENT_PREFIX,
        flags=flags,
        parse=_parsed,
        example='data_dir = "/var/lib/nacre/agent"',
    )
    configuration.check_log_level(settings.log_level)
    split_address(settings.migration_listen, field="migration_listen")
    if settings.metrics_listen:
        split_address(settings.metrics_listen, field="metrics_listen")
    return settings


def _default_data() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/nacre/agent")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local/share") / "nacre/agent"


def _parsed(name: str, text: str) -> str | list[str] | dict[str, str]:
    """Return what the text of a flag or variable means: `a,b` for lists, `k=v,k=v` for tables."""
    parts = listed(text)
    if name in _LISTS:
        return parts
    if name in _TABLES:
        return {key.strip(): value.strip() for key, _, value in (part.partition("=") for part in parts)}
    return text

"""What an operator decides about an agent: TOML, then the environment, then flags.

Without `--config`, `/etc/nacre/agent.toml` is read, and then `agent.toml` in the current folder, which overrides it.
Read once by `main`. Unknown keys are an error, so a typing mistake is not a silent default.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec

from nacre.errors import InvalidInputError
from nacre.lib import configuration
from nacre.lib.configuration import listed, split_address

ENVIRONMENT_PREFIX = "NACRE_AGENT_"
SYSTEM_FILE = Path("/etc/nacre/agent.toml")
LOCAL_FILE = Path("agent.toml")
_USERS = re.compile(r"(\d{1,10})-(\d{1,10})", re.ASCII)
_LEAST_USER = 1000
_LAST_USER = (1 << 32) - 2
_LISTS = frozenset({"hypervisors", "simulate_zones", "pool_roots"})
_TABLES = frozenset({"labels"})


@dataclass(frozen=True)
class UserRange:
    """Numbers of users and groups that nobody else has, both ends included."""

    first: int
    last: int


class Confine(StrEnum):
    """When hypervisors run as users of their own."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


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
    confine: Confine = Confine.AUTO
    """Whether each machine's hypervisor runs as a user of its own: `auto` where that can be done, `always`, `never`."""
    confine_users: str = "900000-965535"
    """Numbers of users and groups, which must be free on the host, for `confine`."""
    pool_roots: tuple[str, ...] = ()
    """Folders in which pools of volumes may be, besides the agent's own; every other path is refused."""
    qemu_binary: str = "qemu-system-x86_64"
    """The QEMU to run: a name to be found in PATH, or a path."""
    cloud_hypervisor_binary: str = "cloud-hypervisor"
    """The Cloud Hypervisor to run."""
    cloud_hypervisor_firmware: str = ""
    """A UEFI made for Cloud Hypervisor, which starts images without a kernel; empty is none."""
    firecracker_binary: str = "firecracker"
    """The Firecracker to run."""
    jailer_binary: str = "jailer"
    """Firecracker's jailer."""
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

    def driver_options(self, name: str) -> dict[str, str]:
        """What is set for one hypervisor driver."""
        return {
            "qemu": {"binary": self.qemu_binary},
            "cloud-hypervisor": {
                "binary": self.cloud_hypervisor_binary,
                "firmware": self.cloud_hypervisor_firmware,
            },
            "firecracker": {"binary": self.firecracker_binary, "jailer": self.jailer_binary},
        }.get(name, {})

    @property
    def users(self) -> UserRange:
        """`confine_users` as numbers. Raises InvalidInputError."""
        found = _USERS.fullmatch(self.confine_users)
        if found is None or not _LEAST_USER <= int(found[1]) < int(found[2]) <= _LAST_USER:
            raise InvalidInputError(
                "invalid_user_range",
                f"{self.confine_users!r} is no range of user numbers",
                hint=f"give the first and the last, such as 900000-965535, from {_LEAST_USER} upwards",
                field="confine_users",
            )
        return UserRange(int(found[1]), int(found[2]))

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
    settings.users  # noqa: B018  # raises if it cannot be read
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

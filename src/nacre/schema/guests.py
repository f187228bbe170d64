"""Bodies about the inside of guests: cloud-init, commands, what they use."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

import msgspec

from nacre.model.commands import DEFAULT_OUTPUT_BYTES, DEFAULT_TIMEOUT_S, MAX_WORDS, Word
from nacre.model.guests import MAX_KEYS, MAX_META, MAX_NETWORK_CONFIG, MAX_USER_DATA, Hostname, UserName
from nacre.model.ids import CommandId
from nacre.schema.common import Body, Out

MAX_RECORDED_BYTES = 64 << 10
MAX_ONE_SHOT_S = 300.0
MAX_STDIN = 256 << 10


class CloudInitBody(Body, frozen=True, kw_only=True):
    """What cloud-init in the guest is given. Kept sealed; only its names and a digest are ever shown again."""

    user_data: Annotated[str, msgspec.Meta(max_length=MAX_USER_DATA)] = ""
    """What cloud-init runs: begins with #cloud-config, #!, #include or the headers of a MIME message."""
    meta_data: Annotated[dict[str, str], msgspec.Meta(max_length=MAX_META)] = {}
    """Keys for the meta-data, besides Nacre's own."""
    network_config: Annotated[str, msgspec.Meta(max_length=MAX_NETWORK_CONFIG)] = ""
    """Network configuration, version 1 or 2, as YAML."""
    hostname: Hostname = ""
    """What the guest calls itself."""
    user: UserName = ""
    """The name of the first user; otherwise the image's own, such as `debian`."""
    ssh_keys: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_KEYS)] = ()
    """Public keys that the first user can log in with."""
    password: Annotated[str, msgspec.Meta(max_length=256)] | None = None
    """Of the first user. Hashed at once (SHA-512 crypt); never stored and never shown."""
    password_hash: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """The same, hashed by yourself: `openssl passwd -6`."""


class CommandState(StrEnum):
    """How a recorded command stands."""

    RUNNING = "running"
    ENDED = "ended"
    FAILED = "failed"  # it could not be run, or nobody knows how it ended


class VmExec(Body, frozen=True, kw_only=True):
    """A command to run in a guest, through its agent. It is not a line for a shell."""

    command: Annotated[tuple[Word, ...], msgspec.Meta(min_length=1, max_length=MAX_WORDS)]
    """The program and its arguments, such as `["systemctl", "status"]`. It runs as the guest's agent does: as root."""
    environment: Annotated[dict[str, Word], msgspec.Meta(max_length=64)] = {}
    """Variables besides the agent's own."""
    stdin: Annotated[str, msgspec.Meta(max_length=MAX_STDIN)] = ""
    """What it reads."""
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=MAX_ONE_SHOT_S)] = DEFAULT_TIMEOUT_S
    """When it runs for longer it is killed."""
    output_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_RECORDED_BYTES)] = min(
        DEFAULT_OUTPUT_BYTES, MAX_RECORDED_BYTES
    )
    """How much of each of its two outputs is kept; the rest is left out."""


class CommandOut(Out, frozen=True, kw_only=True):
    """A command that ran in a guest, as it was recorded. Its arguments are not: they may be secret."""

    id: CommandId
    """Its id."""
    vm: str
    """The id of the machine."""
    program: str
    """The first word of the command."""
    state: CommandState
    """`failed` if it could not be run, or if nobody knows how it ended; otherwise `ended`, whatever its exit code."""
    exit_code: int | None = None
    """Null while it runs, and if it did not end by itself."""
    signal: int | None = None
    """What it was killed by."""
    timed_out: bool = False
    """It ran for too long and was killed."""
    stdout: str = ""
    """As UTF-8; what is not is replaced."""
    stderr: str = ""
    """As `stdout`."""
    stdout_truncated: bool = False
    """It printed more than was kept."""
    stderr_truncated: bool = False
    """It printed more than was kept."""
    code: str = ""
    """Why it failed."""
    message: str = ""
    """The same for people."""
    hint: str = ""
    """What to do about it."""
    created_by: str
    """Who ran it."""
    started_at: datetime
    """When it was asked for."""
    ended_at: datetime | None = None
    """Null while it runs."""

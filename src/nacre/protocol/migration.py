"""What two agents say to each other while a machine goes from one to the other. Used by `agent/migration`.

Each connection is for one channel. The source begins with `Open`; the target answers with `Opened` and hangs up if that
is a refusal. Both are frames: four bytes of length, most significant first, then MessagePack. On a channel other than
`HOLD`, bytes of the hypervisor follow both ways.
"""

from enum import StrEnum
from typing import TypeVar

import msgspec

from nacre.errors import InvalidInputError
from nacre.model.ids import StreamId
from nacre.model.migrations import Offer

MAX_FRAME = 1 << 20

F = TypeVar("F")


class Channel(StrEnum):
    """What a connection carries."""

    HOLD = "hold"  # nothing: while it is there both sides know that the other one is
    MEMORY = "memory"
    DISKS = "disks"


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """Source: which stream and which part of it this is."""

    stream: StreamId
    channel: Channel
    offer: Offer | None = None
    """With `HOLD`."""


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """Target: go on, or why not. To `HOLD` it answers once its hypervisor waits for the machine."""

    ok: bool
    code: str = ""
    message: str = ""


def encode(message: Open | Opened) -> bytes:
    """Return a frame."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes, form: type[F]) -> F:
    """Read the body of a frame. Raises InvalidInputError."""
    try:
        return msgspec.msgpack.decode(body, type=form)
    except msgspec.MsgspecError as error:
        raise InvalidInputError(
            "unreadable_message",
            "the other node's agent sent something unreadable",
            hint="both nodes must run agents of like versions",
        ) from error

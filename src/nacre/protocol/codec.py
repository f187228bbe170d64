"""Messages to bytes and back, and the digest of a desired state. Pure."""

import hashlib

import msgspec

from nacre.errors import InvalidInputError
from nacre.protocol.messages import FromAgent, FromControl, NodeIntent

MAX_MESSAGE_BYTES = 32 << 20
CHUNK_BYTES = 256 << 10
"""Size of a binary frame when bulk data is sent; the best measured size for TLS over loopback."""

_encoder = msgspec.msgpack.Encoder()
_canonical = msgspec.msgpack.Encoder(order="deterministic")
_from_agent = msgspec.msgpack.Decoder(FromAgent)
_from_control = msgspec.msgpack.Decoder(FromControl)


def encode(message: FromAgent | FromControl) -> bytes:
    """Return the frame for a message."""
    return _encoder.encode(message)


def decode_from_agent(frame: bytes) -> FromAgent:
    """Parse a frame that an agent sent. Raises InvalidInputError."""
    try:
        return _from_agent.decode(frame)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def decode_from_control(frame: bytes) -> FromControl:
    """Parse a frame that the control plane sent. Raises InvalidInputError."""
    try:
        return _from_control.decode(frame)
    except msgspec.DecodeError as error:
        raise _unreadable(error) from error


def digest(intent: NodeIntent) -> str:
    """Return a name for exactly this desired state. Saves bytes; never decides whether to ask."""
    return hashlib.sha256(_canonical.encode(intent)).hexdigest()[:32]


def _unreadable(error: Exception) -> InvalidInputError:
    return InvalidInputError(
        "unreadable_message",
        f"a message could not be read: {error}",
        hint="both sides must speak the same protocol version",
    )

"""The paths of the gateway that agents dial, one per kind of connection. Pure."""

from nacre.model.ids import StreamId

ROOTS = "/ca"
"""Sends the root certificates (PEM) to anyone and closes. Believed only if they match a fingerprint."""
ENROL = "/enrol"
AGENT = "/agent"
ARTIFACT = "/artifact"
_STREAM = "/stream/"


def stream_path(stream: StreamId) -> str:
    """Return where an agent brings this stream."""
    return f"{_STREAM}{stream}"


def stream_of(path: str) -> StreamId | None:
    """Return the stream that a path is about."""
    return StreamId(path.removeprefix(_STREAM)) if path.startswith(_STREAM) else None

"""The join string: all that a new agent needs to find a control plane, to know it for the right one, and to be let in.

Made where enrolment tokens are made, read by `agent/enrolment.py`. It holds a secret. Pure.
"""

import base64
import binascii
import re

import msgspec

from nacre.errors import InvalidInputError

PREFIX = "nacre-join-"

_FINGERPRINT = re.compile(r"^[0-9a-f]{64}$")
_encoder = msgspec.json.Encoder()


class Join(msgspec.Struct, frozen=True, kw_only=True):
    """Where to enrol, whom to trust there, and the one-time secret."""

    gateway: str
    """`host:port`; several, separated by commas, where the control plane has replicas."""
    ca: str
    """SHA-256 of the root certificate (DER), in hex."""
    secret: str

    def __repr__(self) -> str:
        return f"Join(gateway={self.gateway!r}, ca={self.ca!r}, secret=...)"

    @property
    def gateways(self) -> tuple[str, ...]:
        """Every address, in the order given."""
        return tuple(part.strip() for part in self.gateway.split(",") if part.strip())


def encode(join: Join) -> str:
    """Return the text that is given to an agent."""
    return PREFIX + base64.urlsafe_b64encode(_encoder.encode(join)).decode().rstrip("=")


def decode(text: str) -> Join:
    """Read a join string, with white space around it or not. Raises InvalidInputError, which never repeats the text."""
    body = text.strip().removeprefix(PREFIX)
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        join = msgspec.json.decode(raw, type=Join)
    except (binascii.Error, UnicodeError, ValueError, msgspec.DecodeError):
        raise _invalid("it cannot be read") from None  # the cause would carry the secret
    if not text.strip().startswith(PREFIX):
        raise _invalid(f"it does not start with {PREFIX}")
    if not join.gateways or not join.secret or _FINGERPRINT.fullmatch(join.ca) is None:
        raise _invalid("a part of it is missing")
    return join


def _invalid(why: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_join",
        f"the join string is not valid: {why}",
        hint="copy the whole string that `nacre node token create` printed",
        field="join",
    )

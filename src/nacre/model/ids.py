"""Identifiers: `<prefix>-<ulid>`, so that an id says what it names and sorts by when it was made.

Made by the services, understood by everyone. Pure: time and randomness are passed in.
The body is a ULID (https://github.com/ulid/spec) in lower case: 48 bits of milliseconds, 80 random bits.
"""

import re
from datetime import datetime
from typing import NewType

ProjectId = NewType("ProjectId", str)
UserId = NewType("UserId", str)
TokenId = NewType("TokenId", str)
GrantId = NewType("GrantId", str)
NodeId = NewType("NodeId", str)
EnrolmentId = NewType("EnrolmentId", str)
ImageId = NewType("ImageId", str)
VmId = NewType("VmId", str)
OperationId = NewType("OperationId", str)
StreamId = NewType("StreamId", str)
RunId = NewType("RunId", str)
MoveId = NewType("MoveId", str)
DrainId = NewType("DrainId", str)
TemplateId = NewType("TemplateId", str)
InstanceTypeId = NewType("InstanceTypeId", str)
PoolId = NewType("PoolId", str)
VolumeId = NewType("VolumeId", str)
SnapshotId = NewType("SnapshotId", str)
CommandId = NewType("CommandId", str)
CheckpointId = NewType("CheckpointId", str)

PREFIXES = {
    "project": "prj",
    "user": "usr",
    "token": "tok",
    "grant": "grt",
    "node": "node",
    "enrolment": "enr",
    "image": "img",
    "vm": "vm",
    "operation": "op",
    "stream": "str",
    "run": "run",
    "move": "mov",
    "drain": "drn",
    "template": "tpl",
    "instance-type": "ity",
    "pool": "pool",
    "volume": "vol",
    "snapshot": "snap",
    "command": "cmd",
    "checkpoint": "ckpt",
}

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_ID = re.compile(rf"^({'|'.join(PREFIXES.values())})-[{_ALPHABET}]{{26}}$")


def make_id(noun: str, now: datetime, random: bytes) -> str:
    """Return a new id for `noun` (a key of `PREFIXES`). `random` is 10 fresh random bytes."""
    number = (int(now.timestamp() * 1000) << 80) | int.from_bytes(random[:10], "big")
    digits = [_ALPHABET[(number >> shift) & 31] for shift in range(125, -1, -5)]
    return f"{PREFIXES[noun]}-{''.join(digits)}"


def looks_like_id(text: str) -> bool:
    """Whether `text` has the form of an id. Names of this form are refused, so the two never collide."""
    return _ID.fullmatch(text) is not None

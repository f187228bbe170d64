"""What a guest is made of by now, as far as its next process must know it: after hot plugs its launch does not say.

Written by `shaping`, kept in checkpoints and sent along with guests that move. Devices that sit elsewhere, or memory in
other pieces, are other machines to QEMU, and it refuses to go on in them. Pure.
"""

import msgspec

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass

FORMAT = 1


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What a guest is made of."""

    format: int = FORMAT
    board: str
    """With its version: what `q35` means changes from QEMU to QEMU."""
    accelerator: str
    cpus: int
    memory_bytes: int
    """What it began with."""
    dimms: tuple[int, ...] = ()
    """What was added, in order."""
    ports: int = 0
    places: dict[str, int] = {}
    """Disks and NICs, and where they are on the bus."""
    generation: str = ""


def encode(shape: Shape) -> str:
    """Return it as text."""
    return msgspec.json.encode(shape).decode()


def decode(text: str) -> Shape:
    """Read what `encode` has written. Raises DriverError."""
    try:
        found = msgspec.json.decode(text, type=Shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _unreadable() from error
    if found.format != FORMAT:
        raise _unreadable()
    return found


def _unreadable() -> DriverError:
    return DriverError(
        "shape_unreadable",
        "what is known of the saved or moving machine cannot be read by this version of Nacre",
        hint="use the version that wrote it on this node",
        failure_class=FailureClass.PERMANENT,
    )

"""What every reader of a disk header needs: bounded reads, and how to say no. Used by `diskformats*`. Pure."""

from dataclasses import dataclass

from nacre.errors import InvalidInputError

SECTOR = 512


@dataclass(frozen=True, kw_only=True)
class View:
    """The two ends of a file. Reads beyond them give zeros rather than an error."""

    head: bytes
    tail: bytes
    size: int

    def has(self, offset: int, magic: bytes) -> bool:
        """Whether these bytes stand at `offset` of the head."""
        return self.head[offset : offset + len(magic)] == magic

    def little(self, offset: int, length: int) -> int:
        """Read an unsigned little-endian number."""
        return int.from_bytes(self.head[offset : offset + length].ljust(length, b"\x00"), "little")

    def big(self, offset: int, length: int) -> int:
        """Read an unsigned big-endian number."""
        return int.from_bytes(self.head[offset : offset + length].ljust(length, b"\x00"), "big")


def refuse(code: str, message: str, *, hint: str) -> InvalidInputError:
    """Return the error that says why a file is not taken."""
    return InvalidInputError(code, message, hint=hint)


def damaged(what: str) -> InvalidInputError:
    """Return the error for a header that contradicts itself or the file."""
    return refuse(
        "image_damaged",
        f"the image is damaged: {what}",
        hint="check the original with: qemu-img check; send it again or make it again",
    )


def refers_outside(what: str) -> InvalidInputError:
    """Return the error for an image that is not whole without another file."""
    return refuse(
        "image_refers_outside",
        f"the image is not whole by itself: {what}",
        hint="flatten it into one file with: qemu-img convert -O qcow2 OLD NEW",
    )

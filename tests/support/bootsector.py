"""A disk that boots by BIOS and says so on the first serial port: 512 bytes of our own, no operating system.

For tests of booting from disk. The program prints its word, writes the word at `WRITTEN_AT`, and halts.
"""

WORD = "BOOTSECTORALIVE1"
WRITTEN_AT = 62 * 512
"""Byte offset of the word on the disk once the program has run."""

_PROGRAM = bytes.fromhex(
    "31c0"  # xor ax, ax
    "8ed8"  # mov ds, ax
    "8ec0"  # mov es, ax
    "8816007d"  # mov [0x7d00], dl       the disk that we come from
    "be407c"  # mov si, 0x7c40           the word
    "baf803"  # mov dx, 0x3f8            COM1
    "ac"  # next: lodsb
    "84c0"  # test al, al
    "7403"  # jz done
    "ee"  # out dx, al
    "ebf8"  # jmp next
    "8a16007d"  # done: mov dl, [0x7d00]
    "bb407c"  # mov bx, 0x7c40           what to write
    "b80103"  # mov ax, 0x0301           write one sector
    "b93f00"  # mov cx, 0x003f           cylinder 0, sector 63 (they count from 1)
    "b600"  # mov dh, 0
    "cd13"  # int 0x13
    "f4"  # halt: hlt
    "ebfd"  # jmp halt
)


def disk_image(size: int = 1 << 20) -> bytes:
    """Return a raw disk that boots."""
    text = (WORD + "\r\n").encode() + b"\0"
    sector = _PROGRAM.ljust(0x40, b"\x90") + text
    return (sector.ljust(510, b"\0") + b"\x55\xaa").ljust(size, b"\0")

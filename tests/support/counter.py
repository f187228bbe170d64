"""A guest of 512 bytes that counts, on all of its disks, and looks whether what it has written is still there.

Eighteen times a second it writes the next number to each disk in turn, to one of 32 sectors, after reading the number
before. It prints a dot for every round, and an E if anything was not as it had left it, after which it rests. So what
lies in a disk says at which moment that was, whether it is whole, and whether disks (and memory) are of one moment.
"""

import subprocess
import tempfile
from pathlib import Path

SECTORS = 32
SIZE = 1 << 20
"""Bytes of each disk, at least."""
_FIRST = 64
_SECTOR = 512
_DISKS_AT = 0x45

_PROGRAM = bytes.fromhex(
    "31c0 8ed8 8ec0 8ed0"  # xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax
    "bc007c 31ed"  # mov sp, 0x7c00; xor bp, bp      the number
    "45 fb f4"  # round: inc bp; sti; hlt            until the next tick
    "b280"  # mov dl, 0x80                           the first disk
    "89e8 48 7413"  # disk: mov ax, bp; dec ax; jz fill
    "b742 c706847d0082"  # mov bh, 0x42; mov word [0x7d84], 0x8200
    "e83e00 722b"  # call sector; jc bad
    "39060082 7525"  # cmp [0x8200], ax; jne bad
    "89e8 bf0080 b90001 f3ab"  # fill: mov ax, bp; mov di, 0x8000; mov cx, 256; rep stosw
    "b743 c706847d0080"  # mov bh, 0x43; mov word [0x7d84], 0x8000
    "e82100 720e"  # call sector; jc bad
    "fec2 80fa81 75ca"  # inc dl; cmp dl, 0x81       one after the last disk; jne disk
    "b32e e80a00 ebbe"  # mov bl, '.'; call say; jmp round
    "b345 e80300"  # bad: mov bl, 'E'; call say
    "f4 ebfd"  # rest: hlt; jmp rest
    "52 baf803 88d8 ee 5a c3"  # say: push dx; mov dx, 0x3f8; mov al, bl; out dx, al; pop dx; ret
    "60 83e01f 83c040"  # sector: pusha; and ax, 31; add ax, 64
    "c706807d1000 c706827d0100 c706867d0000 a3887d"  # a packet for one sector: size, count, segment, address
    "31c9 890e8a7d 890e8c7d 890e8e7d"
    "be807d b000 88fc cd13 61 c3"  # mov si, 0x7d80; mov al, 0; mov ah, bh; int 0x13; popa; ret
)


def disk_image(disks: int = 1) -> bytes:
    """Return a raw disk that boots, for a machine with so many disks."""
    program = bytearray(_PROGRAM)
    program[_DISKS_AT] = 0x80 + disks
    return (bytes(program).ljust(510, b"\0") + b"\x55\xaa").ljust(SIZE, b"\0")


def newest(path: Path) -> int:
    """Return the newest number in a qcow2 file that nobody writes. Fails unless all that were before are there too."""
    with tempfile.NamedTemporaryFile(prefix="nacre-counter-") as raw:
        command = ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=64k", "count=1", f"if={path}"]
        subprocess.run([*command, f"of={raw.name}"], check=True, capture_output=True)
        content = Path(raw.name).read_bytes()
    found = [_number(content, place) for place in range(SECTORS)]
    last = max(found)
    for number in range(max(1, last - SECTORS + 1), last + 1):
        assert found[number % SECTORS] == number, (last, found)
    return last


def _number(content: bytes, place: int) -> int:
    at = (_FIRST + place) * _SECTOR
    words = {content[at + offset : at + offset + 2] for offset in range(0, _SECTOR, 2)}
    assert len(words) == 1, f"sector {place} is torn"
    return int.from_bytes(words.pop(), "little")

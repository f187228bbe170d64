"""A guest that writes down how far it has come, one number per sector of its disk, and never forgets one that it wrote.

A number counts once it is flushed. So whatever happened to the guest and its disk, the disk has every number up to the
last one that the guest knows of, once each and in order, unless something was lost or somebody else wrote there.
"""

import subprocess
from pathlib import Path

from support.console import Console

SECTOR = 512
SECTORS = 24_000
"""More than a test writes."""
SIZE = 16 << 20
KEEP = (
    "i=0; while test ! -e /tmp/enough; do n=$((i+1)); "
    "if printf '%07d\\n' $n | dd of=$disk bs=512 seek=$n conv=notrunc,fsync 2>/dev/null; then i=$n; "
    "echo $i >/tmp/diary.new; mv /tmp/diary.new /tmp/diary; fi; usleep 20000; done"
)
"""What the guest runs, with `disk` set. The first sector stays free."""


def keep(shell: Console, serial: str) -> None:
    """Have the guest begin, on the disk with this serial number."""
    find = f"disk=/dev/$(grep -l {serial} /sys/block/vd?/serial | cut -d / -f 4)"
    shell.until(f"{find}; test -b $disk && echo there", "there")
    shell.run(f"{find}; ({KEEP}) >/dev/null 2>&1 & true")
    shell.until("test -s /tmp/diary && echo be''gun", "begun")


def reached(shell: Console) -> int:
    """The last number that the guest knows of."""
    return int(shell.run("cat /tmp/diary"))


def check(volume: Path, least: int, folder: Path) -> int:
    """Every number is there, up to at least this one; the last one. Nobody has the volume open."""
    raw = folder / "diary.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", str(volume), str(raw)], check=True)
    return read(raw.read_bytes(), least)


def read(content: bytes, least: int) -> int:
    """As `check`, of what is on the disk."""
    last = 0
    for number in range(1, SECTORS):
        found = content[number * SECTOR : number * SECTOR + 7]
        if not found.strip(b"\0"):
            break
        assert found == b"%07d" % number, f"{found!r} where {number} should be"
        last = number
    assert last >= least, f"{least} was written, and only {last} is there"
    assert not content[(last + 1) * SECTOR : (SECTORS + 1) * SECTOR].strip(b"\0"), f"more after {last}"
    return last

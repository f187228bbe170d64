"""In which state disks were when they were kept: of checkpoints of machines and of snapshots of volumes."""

from enum import StrEnum


class Consistency(StrEnum):
    """What a guest finds that starts from the disks of a checkpoint, or opens what was made from a snapshot."""

    CRASH = "crash"  # as after a power cut
    FILESYSTEM = "filesystem"  # file systems were at rest: nobody wrote to them, or the guest held them still
    MEMORY = "memory"  # it does not start but goes on: memory and devices are there as well

"""What Firecracker's refusals mean: one table from its words to our errors. Pure. Used by `api`.

Its status says little (all errors but one are 400), so its own words decide; those of the system's library, which
differ from build to build, never do. Nothing of what it says reaches users: it speaks of paths of the host.
"""

from dataclasses import dataclass

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass


@dataclass(frozen=True)
class Meaning:
    """What a refusal is to us."""

    words: str
    """What it says, anywhere in its text."""
    code: str
    message: str
    hint: str
    failure_class: FailureClass = FailureClass.TRANSIENT


_LOG = "the node's agent has logged Firecracker's own words"
_FULL = Meaning(
    "",
    "hypervisor_busy",
    "too many ask the machine's Firecracker at the same time",
    "it is asked again; on the node, see who else is connected to its socket",
)
_TOO_LARGE = Meaning("", "metadata_too_large", "the metadata does not fit", "store less of it", FailureClass.PERMANENT)
_OTHER = Meaning("", "hypervisor_refused", "Firecracker refused what the machine's agent asked for", _LOG)

TABLE = (
    Meaning(
        "not supported before starting the microVM",
        "wrong_state",
        "the machine has not started yet",
        "it is tried again when the machine runs",
    ),
    Meaning(
        "not supported after starting the microVM",
        "wrong_state",
        "this cannot be changed while the machine runs",
        "stop the machine, change it and start it",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "PCI is not enabled",
        "hotplug_unavailable",
        "the machine was started without a way to add and remove devices",
        "stop and start the machine on a node with Firecracker 1.16 or newer",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Device ID in use", "device_in_use", "the machine has a device of this name already", "give it another name"
    ),
    Meaning(
        "Device not found",
        "device_not_found",
        "the machine has no such device",
        "look at the machine's devices; a balloon must be there from the start",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Cannot unplug root device",
        "device_in_use",
        "the machine's root disk cannot be taken away",
        "stop the machine first",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "MAC address is already in use",
        "mac_in_use",
        "two NICs of the machine have the same MAC",
        "give each its own",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Could not create the network device",
        "tap_unavailable",
        "a tap device of the machine cannot be opened",
        "on the node, see whether it is there, has one queue, and is used by nothing else",
    ),
    Meaning(
        "Error manipulating the backing file",
        "disk_unavailable",
        "a disk of the machine cannot be opened",
        "see whether the node's storage is there and lets Firecracker's user in",
    ),
    Meaning(
        "Boot source error",
        "kernel_unavailable",
        "the machine's kernel or initrd cannot be opened",
        "see whether the image is whole; it is fetched again if you remove it from the node's cache",
    ),
    Meaning(
        "invalid kernel image",
        "kernel_unsupported",
        "Firecracker cannot start the machine's kernel",
        "use an uncompressed kernel (vmlinux), or Firecracker 1.17 or newer",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Amount of pages requested is too large",
        "balloon_too_large",
        "the balloon cannot take more than the machine's memory",
        "reclaim less",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Invalid requested size",
        "memory_size_refused",
        "the machine cannot have so much memory",
        "choose a size up to memory.max_bytes, in steps of 2 MiB",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Devices without snapshot support are present",
        "device_not_saved",
        "a machine with a disk that another process serves cannot be saved",
        "use a disk that is a file or a block device",
        FailureClass.PERMANENT,
    ),
    Meaning("save/restore unavailable while running", "not_paused", "only a paused machine is saved", "pause it first"),
    Meaning(
        "unsupported version",
        "checkpoint_incompatible",
        "another version of Firecracker has saved the machine",
        "restore it on a node with the same version",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "Failed to restore from snapshot",
        "checkpoint_unusable",
        "the machine cannot be restored from what was saved",
        "see whether the files are whole, and whether the node is like the one that saved it",
        FailureClass.PERMANENT,
    ),
    Meaning(
        "/dev/kvm",
        "hypervisor_unavailable",
        "Firecracker cannot use KVM on the node",
        "see whether /dev/kvm is there and whether Firecracker's user may open it",
        FailureClass.BLOCKED,
    ),
    Meaning(
        "when deserializing",
        "hypervisor_refused",
        "Firecracker does not understand the agent",
        "is the installed version supported? " + _LOG,
        FailureClass.PERMANENT,
    ),
)


def meaning(status: int, text: str) -> DriverError:
    """Return the error that a refusal is."""
    match status:
        case 503:
            found = _FULL
        case 413:
            found = _TOO_LARGE
        case _:
            found = next((each for each in TABLE if each.words in text), _OTHER)
    return DriverError(found.code, found.message, hint=found.hint, failure_class=found.failure_class)


def silent() -> DriverError:
    """Return the error for a Firecracker that does not answer. What was asked may have been done, or not."""
    return DriverError(
        "hypervisor_silent",
        "the machine's Firecracker does not answer",
        hint="it is asked again; if it stays silent, stop the machine by force",
    )


_ENDS = {
    148: "it was ended because it made a system call that it is not meant to make",
    149: "the host could not give it the memory that it had promised, such as huge pages",
    150: "it was ended by a fault in itself",
    151: "a file of it grew beyond its limit",
    152: "its configuration was bad",
    153: "its command line was not understood",
    154: "it used more CPU time than its limit",
    156: "it was told to end by a signal on the node",
    157: "it was ended by a fault in itself",
}


def end(status: int | None) -> str:
    """Say what an exit code means; empty if there is nothing to say."""
    return _ENDS.get(status, "") if status is not None else ""

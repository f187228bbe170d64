"""The error for what QEMU cannot do for a machine. Pure."""

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass


def refused(code: str, message: str, hint: str) -> DriverError:
    """Return an error that stays until the machine is changed."""
    return DriverError(code, message, hint=hint, failure_class=FailureClass.PERMANENT)


def no_segments(what: str) -> DriverError:
    """Return the error for a device in another PCI segment."""
    return refused(
        "pci_segment_unsupported",
        f"{what}: QEMU has one PCI segment",
        "leave the segment at 0, or use cloud-hypervisor",
    )

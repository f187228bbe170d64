"""What Cloud Hypervisor cannot do, said before it is asked. Pure. Used by `config`, `devices` and `guest`."""

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass


def unsupported(code: str, message: str, hint: str) -> DriverError:
    """Return the error for something that no retry will make possible."""
    return DriverError(code, f"Cloud Hypervisor {message}", hint=hint, failure_class=FailureClass.PERMANENT)


def unfit(code: str, message: str, hint: str) -> DriverError:
    """Return the error for values that do not go together, whoever is asked."""
    return DriverError(code, message, hint=hint, failure_class=FailureClass.PERMANENT)

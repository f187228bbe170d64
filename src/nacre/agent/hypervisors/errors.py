"""What goes wrong in a driver, with the class that decides what happens next."""

from nacre.errors import Kind, NacreError
from nacre.model.convergence import FailureClass


class DriverError(NacreError):
    """A hypervisor, disk or network driver could not do what was asked."""

    kind = Kind.UNAVAILABLE

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str,
        failure_class: FailureClass = FailureClass.TRANSIENT,
    ) -> None:
        super().__init__(code, message, hint=hint)
        self.failure_class = failure_class

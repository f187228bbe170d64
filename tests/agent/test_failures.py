"""Errors of recipes become facts."""

from datetime import UTC, datetime

import pytest

from nacre.agent.failures import failure_of
from nacre.agent.hypervisors.errors import DriverError
from nacre.errors import ConflictError, NotFoundError, UnavailableError, UnsupportedError
from nacre.model.convergence import FailureClass

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("error", "failure_class", "code"),
    [
        (DriverError("a", "b", hint="c", failure_class=FailureClass.BLOCKED), FailureClass.BLOCKED, "a"),
        (NotFoundError("gone", "b", hint="c"), FailureClass.WAITING, "gone"),
        (UnavailableError("control_plane_unreachable", "b", hint="c"), FailureClass.WAITING, None),
        (UnavailableError("other", "b", hint="c"), FailureClass.TRANSIENT, None),
        (ConflictError("machine_locked", "b", hint="c"), FailureClass.TRANSIENT, None),
        (UnsupportedError("x", "b", hint="c"), FailureClass.PERMANENT, None),
        (OSError(28, "No space left on device", "/secret/path"), FailureClass.TRANSIENT, "storage_full"),
        (OSError(5, "Input/output error", "/secret/path"), FailureClass.TRANSIENT, "node_error"),
    ],
)
def test_every_error_becomes_a_failure_with_a_class_and_a_hint_and_no_path(error, failure_class, code):
    failure = failure_of(error, generation=3, at=NOW, attempts=2, may_give_up=True)
    assert failure.failure_class is failure_class
    assert failure.code == (code or error.code)
    assert failure.hint
    assert "/secret" not in failure.message
    assert (failure.generation, failure.attempts) == (3, 2)


def test_what_must_not_be_given_up_is_never_permanent():
    error = DriverError("a", "b", hint="c", failure_class=FailureClass.PERMANENT)
    failure = failure_of(error, generation=1, at=NOW, attempts=1, may_give_up=False)
    assert failure.failure_class is FailureClass.TRANSIENT

"""What every resource shares: references, pages, acceptance of a change, problems."""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from nacre.model.ids import OperationId, ProjectId
from nacre.model.operations import OperationState

T = TypeVar("T")

DEFAULT_PAGE = 100
MAX_PAGE = 1000


class Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that a client sends: an unknown field is an error, not a surprise."""


class Out(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that the API answers: clients ignore fields that they do not know."""


class Page(Out, Generic[T], frozen=True, kw_only=True):
    """Part of a list. `next` is the cursor of the following part; null on the last."""

    items: list[T]
    next: str | None = None


class ProjectRef(Out, frozen=True, kw_only=True):
    """The project that an object belongs to."""

    id: ProjectId
    name: str


class OperationOut(Out, frozen=True, kw_only=True):
    """A promise that was accepted and how it stands. It ends when its object converged at `generation` or failed."""

    id: OperationId
    type: str
    """The action that began it: `vm.create`, `vm.start`, `image.import`."""
    state: OperationState
    noun: str
    object_id: str
    object_name: str
    project: ProjectRef | None
    generation: int
    progress: float | None = None
    """0 to 1, or null when nobody can say."""
    message: str = ""
    error_code: str = ""
    hint: str = ""
    cancellable: bool = False
    created_by: str = ""
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None


class Accepted(Out, Generic[T], frozen=True, kw_only=True):
    """202: the change is durable; `operation` ends when `resource` has reached `generation`."""

    resource: T
    generation: int
    operation: OperationOut


class AcceptedBatch(Accepted[T], Generic[T], frozen=True, kw_only=True):
    """202: the same for one object or several. Further ones are in `more`, each with an operation of its own."""

    more: list[Accepted[T]] = []


class Problem(Out, frozen=True, kw_only=True):
    """RFC 9457 problem details, with a stable `code` and a `hint`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    hint: str
    request_id: str
    field: str | None = None
    retryable: bool = False

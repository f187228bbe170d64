"""What every resource shares: references, pages, acceptance of a change, problems."""

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

from nacre.model.ids import OperationId, ProjectId, VmId
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
    """This part of the list."""
    next: str | None = None
    """The cursor of the following part; null on the last."""


class VmRef(Out, frozen=True, kw_only=True):
    """A machine, which may be gone."""

    id: VmId
    """Its id, which never changes."""
    name: str
    """Its name."""


class ProjectRef(Out, frozen=True, kw_only=True):
    """The project that an object belongs to."""

    id: ProjectId
    """Its id, which never changes."""
    name: str
    """Its name."""


class OperationOut(Out, frozen=True, kw_only=True):
    """A promise that was accepted and how it stands. It ends when its object converged at `generation` or failed."""

    id: OperationId
    """Its id, which never changes."""
    type: str
    """The action that began it: `vm.create`, `vm.start`, `image.import`."""
    state: OperationState
    """How it stands."""
    noun: str
    """What kind of object it changes."""
    object_id: str
    """Id of that object."""
    object_name: str
    """Name of that object at the time."""
    project: ProjectRef | None
    """The project of the object; null for those of the platform."""
    generation: int
    """The intent that it promises."""
    progress: float | None = None
    """0 to 1, or null when nobody can say."""
    message: str = ""
    """How it goes, for people."""
    error_code: str = ""
    """Stable name of what went wrong; empty if nothing did."""
    hint: str = ""
    """What to do about it."""
    cancellable: bool = False
    """Whether it can be cancelled."""
    created_by: str = ""
    """Who asked for it."""
    created_at: datetime
    """When it was made."""
    updated_at: datetime
    """When it last changed."""
    finished_at: datetime | None = None
    """When it ended; null while it has not."""


class Accepted(Out, Generic[T], frozen=True, kw_only=True):
    """202: the change is durable; `operation` ends when `resource` has reached `generation`."""

    resource: T
    """The object as it is now."""
    generation: int
    """The intent that was accepted."""
    operation: OperationOut
    """The promise, to be waited for."""


class AcceptedBatch(Accepted[T], Generic[T], frozen=True, kw_only=True):
    """202: the same for one object or several. Further ones are in `more`, each with an operation of its own."""

    more: list[Accepted[T]] = []
    """The others, if there was more than one."""


class Problem(Out, frozen=True, kw_only=True):
    """RFC 9457 problem details, with a stable `code` and a `hint`."""

    type: str
    """`about:blank`, as RFC 9457 has it."""
    title: str
    """The code in words."""
    status: int
    """The HTTP status."""
    code: str
    """Stable name of what is wrong, for programs."""
    detail: str
    """What is wrong, for people."""
    hint: str
    """What to do about it."""
    request_id: str
    """Finds it in the log."""
    field: str | None = None
    """Path of the field that is wrong; null if it is none."""
    retryable: bool = False
    """Whether trying later may help."""

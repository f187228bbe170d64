"""Options that several commands share, with their help and completion. Declarations only."""

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from nacre.cli import names

VmName = Annotated[str, Parameter(completer=names.vms, help="Name or id of a machine.")]
ImageName = Annotated[str, Parameter(completer=names.images, help="Name or id of an image.")]
TemplateName = Annotated[str, Parameter(completer=names.templates, help="Name or id of a template.")]
InstanceTypeName = Annotated[str, Parameter(completer=names.instance_types, help="Name or id of an instance type.")]
VolumeName = Annotated[str, Parameter(completer=names.volumes, help="Name or id of a volume.")]
SnapshotName = Annotated[str, Parameter(help="Name or id of a snapshot of the volume.")]
CheckpointName = Annotated[
    str, Parameter(completer=names.checkpoints_of, help="Name or id of a checkpoint of the machine.")
]
PoolName = Annotated[str, Parameter(completer=names.pools, help="Name or id of a pool.")]
NodeName = Annotated[str, Parameter(completer=names.nodes, help="Name or id of a node.")]
ProjectName = Annotated[str, Parameter(completer=names.projects, help="Name or id of a project.")]
UserName = Annotated[str, Parameter(completer=names.users, help="Name or id of a user.")]
OperationName = Annotated[str, Parameter(completer=names.operations, help="Id of an operation.")]
ContextName = Annotated[str, Parameter(completer=names.contexts, help="Name of a context.")]

Labels = Annotated[tuple[str, ...], Parameter(name="--label", negative=(), help="Label key=value. Repeatable.")]
ChangedLabels = Annotated[
    tuple[str, ...],
    Parameter(name="--label", negative=(), help="Set key=value, or remove with key-. Repeatable."),
]
Filters = Annotated[
    tuple[str, ...],
    Parameter(name="--filter", negative=(), help="Only what has this value, such as phase=running. Repeatable."),
]
Sort = Annotated[str | None, Parameter(name="--sort", help="Field to sort by; -field for the largest first.")]
Limit = Annotated[int | None, Parameter(name="--limit", help="At most so many.")]
AllProjects = Annotated[
    bool, Parameter(name=["--all-projects", "-A"], negative=(), help="Of every project that you may see.")
]
Yes = Annotated[
    bool, Parameter(name=["--yes", "-y"], negative=(), help="Do not ask; needed where there is no terminal to ask on.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How long a command stays."""

    wait: Annotated[
        bool, Parameter(name=["--wait", "-w"], negative=(), help="Return when it is done, not when it is accepted.")
    ] = False
    timeout: Annotated[str, Parameter(name="--timeout", help="With --wait: how long, such as 30s or 10m.")] = "5m"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LongWaiting(Waiting):
    """How long a command stays that brings much in: it does so unless it is told not to."""

    wait: Annotated[
        bool,
        Parameter(name=["--wait", "-w"], negative="--no-wait", help="Return when it is done, or when it is accepted."),
    ] = True
    timeout: Annotated[str, Parameter(name="--timeout", help="How long to wait, such as 30s or 10m.")] = "1h"


NO_WAIT = Waiting()
UNTIL_DONE = LongWaiting()

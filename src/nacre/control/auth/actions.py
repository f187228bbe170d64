"""Every action there is, and the least role that may do it. Read by `policy`, and by routes when the server starts.

Pure. A route may only declare an action that is in this table.
"""

from nacre.model.access import Role

_VIEWED = (
    "project",
    "user",
    "grant",
    "node",
    "image",
    "vm",
    "template",
    "instance-type",
    "volume",
    "pool",
    "move",
    "event",
    "operation",
)

_BY_ROLE: dict[Role, tuple[str, ...]] = {
    Role.VIEWER: (
        *(f"{noun}:{verb}" for noun in _VIEWED for verb in ("view", "list")),
        "failover:view",
        "hypervisor:view",
        "hypervisor:list",
        "scheduler:view",
        "vm:metrics",
    ),
    Role.OPERATOR: (
        *(f"vm:{verb}" for verb in ("start", "stop", "reboot", "reset", "pause", "resume", "move")),
        *(f"vm:{verb}" for verb in ("checkpoint", "restore")),
        *(f"vm:{verb}" for verb in ("console", "log", "display")),
        "operation:cancel",
        *(f"volume:{verb}" for verb in ("snapshot", "restore")),
        "move:abort",
    ),
    Role.EDITOR: (
        "project:create",  # asked on the platform, so only its editors may
        *(f"vm:{verb}" for verb in ("create", "update", "delete", "plan", "exec", "protect")),
        *(f"volume:{verb}" for verb in ("create", "update", "delete", "protect")),
        *(f"vm:{verb}" for verb in ("attach", "detach")),
        *(f"image:{verb}" for verb in ("create", "update", "delete", "upload")),
        *(f"{noun}:{verb}" for noun in ("template", "instance-type") for verb in ("create", "update", "delete")),
    ),
    Role.ADMIN: (
        *(f"project:{verb}" for verb in ("update", "delete")),
        *(f"user:{verb}" for verb in ("create", "update", "delete")),
        *(f"grant:{verb}" for verb in ("create", "delete")),
        "failover:confirm",
        *(f"pool:{verb}" for verb in ("create", "update", "delete")),
        *(f"scheduler:{verb}" for verb in ("update", "rebalance")),
        *(f"token:{verb}" for verb in ("view", "list", "create", "delete")),
        *(f"node:{verb}" for verb in ("update", "delete", "cordon", "drain", "evacuate", "discard", "enrol")),
    ),
}

ACTIONS: dict[str, Role] = {action: role for role, actions in _BY_ROLE.items() for action in actions}
"""`noun:verb` to least role. Where it must be held, on a project or on the platform, is the scope of each check."""

OWN_ACTIONS = frozenset({"me:view", "token:view", "token:list", "token:create", "token:delete"})
"""What every user may do to oneself and one's own tokens, whatever the roles."""

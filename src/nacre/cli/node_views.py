"""How nodes look in tables and sentences. Pure."""

from nacre.cli import node_hardware
from nacre.cli.output import Column, age, moment, pairs
from nacre.model.moves import MoveReason
from nacre.model.nodes import STATE_OF_WISH, Reliability
from nacre.model.units import format_size
from nacre.schema.moves import DrainOut
from nacre.schema.nodes import NodeOut

COLUMNS: list[Column[NodeOut]] = [
    Column("NAME", lambda node: node.name),
    Column("STATE", lambda node: state(node)),  # noqa: PLW0108  # defined below
    Column("ZONE", lambda node: node.zone or node.region or "-"),
    Column("VMS", lambda node: str(node.vms)),
    Column("CPUS", lambda node: f"{node.reserved_cpus}/{node.capacity.cpus}" if node.capacity else "-"),
    Column("MEMORY", lambda node: memory(node)),  # noqa: PLW0108  # defined below
    Column("SEEN", lambda node: age(node.last_seen_at)),
    Column("CONDITIONS", lambda node: ", ".join(c.kind.value for c in node.conditions) or "-"),
]


def state(node: NodeOut) -> str:
    """Say what a node does, and what it is for where that is something else: `offline (cordoned)`."""
    wished = STATE_OF_WISH[node.wish]
    return node.state.value if node.state is wished or wished.value == "ready" else f"{node.state} ({wished})"


def memory(node: NodeOut) -> str:
    """Say how much memory is given out, of how much."""
    if node.capacity is None:
        return "-"
    return f"{format_size(node.reserved_memory_bytes)}/{format_size(node.capacity.memory_bytes)}"


def state_sentence(node: NodeOut) -> str:
    """Say what became of a node."""
    return f"{node.name}: {state(node)}"


def drain_sentence(node: NodeOut) -> str:
    """Say how the newest drain of a node stands."""
    return f"{node.name}: {state(node)}" if node.drain is None else f"{node.name}: {drain(node.drain)}"


def drain(of: DrainOut) -> str:
    """Say how a drain stands."""
    word = "evacuation" if of.reason is MoveReason.EVACUATION else "drain"
    counts = [
        f"{count} {name}"
        for name, count in (
            ("on their way", of.moving),
            ("waiting", of.waiting),
            ("failed", of.failed),
            ("aborted", of.aborted),
        )
        if count
    ]
    rest = f", {', '.join(counts)}" if counts else ""
    message = f": {of.message}" if of.message else ""
    return f"{word} is {of.state}: {of.moved} of {of.machines} machines moved{rest}{message}"


def facts(node: NodeOut) -> list[tuple[str, str]]:
    """Return everything about a node."""
    hypervisors = [
        f"{h.name} {h.version} {h.accelerator}".strip() + (f" ({h.reason})" if h.reason else "")
        if h.available
        else f"{h.name}: not available ({h.reason})"
        for h in node.hypervisors
    ]
    return [
        ("name", node.name),
        ("id", node.id),
        ("state", state(node)),
        ("drain", drain(node.drain) if node.drain else ""),
        ("conditions", "\n".join(f"{c.kind}: {c.message} ({c.hint})" for c in node.conditions)),
        ("labels", pairs(node.labels)),
        ("taints", ", ".join(str(taint) for taint in node.taints)),
        ("place", "/".join(part for part in (node.region, node.zone) if part)),
        ("host", f"{node.hostname}, {node.os}, {node.kernel}, {node.architecture}"),
        ("agent", node.agent_version),
        ("hypervisors", "\n".join(hypervisors)),
        *node_hardware.facts(node.inventory),
        ("machines", str(node.vms)),
        ("copies", f"{node.copies} left behind" if node.copies else ""),
        ("cpus", f"{node.reserved_cpus} given out of {node.capacity.cpus}" if node.capacity else ""),
        ("memory", f"{memory(node)} given out" if node.capacity else ""),
        (
            "disk",
            f"{format_size(node.reserved_disk_bytes)}/{format_size(node.capacity.disk_bytes)} given out"
            if node.capacity
            else "",
        ),
        ("load", f"{node.usage.load1:.2f}" if node.usage else ""),
        ("reliability", _reliability(node.reliability)),
        ("seen", f"{age(node.last_seen_at)} ago" if node.last_seen_at else "never"),
        ("joined with", node.enrolment),
        ("certificate until", moment(node.certificate_expires_at)),
        ("created", moment(node.created_at)),
    ]


def _reliability(of: Reliability | None) -> str:
    if of is None:
        return ""
    parts = ", ".join(f"{name} {value:.2f}" for name, value in sorted(of.parts.items()))
    new = f"; times {of.discount:.2f} because it is new" if of.discount < 1 else ""
    flaps = f"; came and went {of.flaps:.1f} times lately" if of.flaps >= 1 else ""
    return f"{of.score:.2f}" + (f" ({parts}{new}{flaps})" if parts else "")

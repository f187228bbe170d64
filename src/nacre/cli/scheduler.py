"""`nacre scheduler …`: how the platform places machines."""

from collections.abc import Sequence
from typing import Annotated

from cyclopts import App, Parameter

from nacre.cli import arguments, output
from nacre.cli.placing import Strategies
from nacre.cli.session import Here
from nacre.errors import InvalidInputError
from nacre.model.placement import Strategy
from nacre.model.units import format_size, parse_size
from nacre.schema.scheduling import SchedulerOut, SchedulerUpdate, WeightsUpdate

app = App(name="scheduler", help="How the platform places machines.")

_FACTORS = ("locality", "reliability", "cost", "utilization", "network")


@app.command
async def show(*, session: Here) -> None:
    """Show strategy, weights, overcommit and what is kept for hosts."""
    async with session.client() as nacre:
        found = await nacre.scheduler.show()
    output.details(session, [found], facts)


@app.command(name="set")
async def set_(
    *,
    strategy: Annotated[Strategies | None, Parameter(help="How one of several nodes that fit is chosen.")] = None,
    weight: Annotated[
        tuple[str, ...],
        Parameter(negative=(), help=f"For weighted: factor=number, of {', '.join(_FACTORS)}. Repeatable."),
    ] = (),
    cpu_overcommit: Annotated[float | None, Parameter(help="Virtual CPUs promised per CPU of a node.")] = None,
    memory_overcommit: Annotated[float | None, Parameter(help="Memory promised per memory of a node.")] = None,
    disk_overcommit: Annotated[float | None, Parameter(help="Disk promised per disk of a node.")] = None,
    disk_headroom: Annotated[float | None, Parameter(help="Share of the disk that must be free, 0 to 0.9.")] = None,
    reserved_cpus: Annotated[float | None, Parameter(help="CPUs of every node that are kept for the host.")] = None,
    reserved_memory: Annotated[str | None, Parameter(help="Memory kept for the host, such as 2GiB.")] = None,
    session: Here,
) -> None:
    """Change how machines are placed from now on. Those that have a node stay there."""
    memory = None if reserved_memory is None else parse_size(reserved_memory, field="reserved-memory")
    changes = SchedulerUpdate(
        strategy=None if strategy is None else Strategy(strategy),
        weights=_weights(weight),
        cpu_overcommit=arguments.finite(cpu_overcommit, "cpu-overcommit"),
        memory_overcommit=arguments.finite(memory_overcommit, "memory-overcommit"),
        disk_overcommit=arguments.finite(disk_overcommit, "disk-overcommit"),
        disk_headroom=arguments.finite(disk_headroom, "disk-headroom"),
        reserved_cpus=arguments.finite(reserved_cpus, "reserved-cpus"),
        reserved_memory_bytes=memory,
    )
    arguments.check_changes(changes)
    async with session.client() as nacre:
        changed = await nacre.scheduler.update(changes)
    output.details(session, [changed], facts)


def facts(found: SchedulerOut) -> Sequence[tuple[str, str]]:
    """Return the policy for people."""
    policy = found.policy
    weights = ", ".join(f"{name} {getattr(policy.weights, name):g}" for name in _FACTORS)
    return [
        ("strategy", policy.strategy.value),
        ("weights", weights if policy.strategy is Strategy.WEIGHTED else f"{weights} (of the strategy weighted)"),
        ("cpu overcommit", f"{policy.cpu_overcommit:g}"),
        ("memory overcommit", f"{policy.memory_overcommit:g}"),
        ("disk overcommit", f"{policy.disk_overcommit:g}"),
        ("disk headroom", f"{policy.disk_headroom:.0%}"),
        ("kept for hosts", f"{policy.reserved_cpus:g} CPUs, {format_size(policy.reserved_memory_bytes)} of memory"),
        ("changed", output.moment(found.updated_at) or "never"),
    ]


def _weights(texts: Sequence[str]) -> WeightsUpdate | None:
    given: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            given[name] = float(number)
        except ValueError:
            given[name] = -1
        if name not in _FACTORS or not 0 <= given[name] <= 1000:
            raise InvalidInputError(
                "invalid_weight",
                f"{text!r} is not a weight",
                hint=f"write factor=number, such as locality=0.3; the factors are {', '.join(_FACTORS)}",
                field="weight",
            )
    return WeightsUpdate(**given) if given else None

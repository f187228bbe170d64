"""`nacre rebalance`: moves that make the load of nodes more even."""

from typing import Annotated

from cyclopts import Parameter

from nacre.cli import arguments, output
from nacre.cli.options import Yes
from nacre.cli.session import Here
from nacre.cli.verbs import confirm
from nacre.schema.scheduling import DEFAULT_MAX_MOVES, DEFAULT_MIN_GAIN, RebalanceBody, RebalanceOut


async def rebalance(
    *,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only say which machines would be moved.")] = False,
    min_gain: Annotated[
        float, Parameter(help="How much less loaded the new node must be with the machine, 0 to 1.")
    ] = DEFAULT_MIN_GAIN,
    max_moves: Annotated[int, Parameter(help="At most so many moves.")] = DEFAULT_MAX_MOVES,
    yes: Yes = False,
    session: Here,
) -> None:
    """Move machines so that the load of nodes becomes more even. A moved machine is stopped and started."""
    arguments.check_range(min_gain, "min-gain", least=0, most=1)
    if not dry_run:
        confirm(session, "restart machines on other nodes?", yes=yes)
    async with session.client() as nacre:
        done = await nacre.scheduler.rebalance(RebalanceBody(min_gain=min_gain, max_moves=max_moves, dry_run=dry_run))
    if session.output != "table":
        output.document(session, done)
        return
    show(done)


def show(done: RebalanceOut) -> None:
    """Print moves and what they change."""
    if not done.moves:
        print(f"nothing to gain: the spread of load is {done.spread_before:.3f}")
        return
    output.table(
        ["VM", "PROJECT", "FROM", "TO", "GAIN", "MOVE"],
        [
            [
                move.vm.name,
                move.vm.project.name,
                move.source.name,
                move.target.name,
                f"{move.gain:.3f}",
                move.move or ("proposed" if done.dry_run else "changed meanwhile"),
            ]
            for move in done.moves
        ],
    )
    print(f"\nspread of load: {done.spread_before:.3f} before, {done.spread_after:.3f} after")

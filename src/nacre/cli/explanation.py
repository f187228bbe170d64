"""How decisions of the scheduler look in tables and sentences. Used by `vm.py`. Prints, and asks nobody."""

from nacre.cli import output
from nacre.cli.exits import one_line
from nacre.model.placement import Decision
from nacre.schema.scheduling import ExplanationOut


def show(told: ExplanationOut) -> None:
    """Print why a machine is where it is: where, by which strategy, the scores, who was rejected, what to do."""
    where = f"on node {told.node.name}" if told.node else "on no node"
    print(one_line(f"{told.vm.name} is {where}: {told.summary}"))
    decision = told.decision
    if decision is None:
        return
    decided = output.moment(decision.decided_at)
    when = "; as of now" if told.fresh else f"; as decided on {decided}" if decided else ""
    print(
        f"strategy {decision.strategy}; {decision.considered} nodes looked at, {decision.fitting} could take it{when}"
    )
    if decision.preempted:
        print(one_line(f"made room for it: {', '.join(decision.preempted)}"))
    _candidates(decision)
    _rejections(decision)
    if told.hint:
        print(f"\nwhat to do: {one_line(told.hint)}")


def _candidates(decision: Decision) -> None:
    if not decision.candidates:
        return
    names = sorted({name for candidate in decision.candidates for name in candidate.parts})
    print()
    output.table(
        ["NODE", "SCORE", *(name.upper() for name in names), ""],
        [
            [
                candidate.name,
                f"{candidate.score:.3f}",
                *(f"{candidate.parts[name]:.3f}" if name in candidate.parts else "-" for name in names),
                "chosen" if candidate.node == decision.node else "",
            ]
            for candidate in decision.candidates
        ],
    )


def _rejections(decision: Decision) -> None:
    if not decision.rejected:
        return
    print()
    output.table(
        ["REJECTED", "REASON", "FOR EXAMPLE"],
        [[f"{one.nodes} of {decision.considered}", one.code, one.message] for one in decision.rejected],
    )

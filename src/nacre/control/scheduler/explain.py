"""Decisions in words: one sentence for a machine that waits. Pure, and without the names of nodes."""

from collections import Counter

from nacre.control.scheduler.reasons import EXCLUDED
from nacre.model.placement import Decision

SHOWN = 5
"""Reasons that fit into a sentence."""


def summary(decision: Decision, *, pinned: bool = False) -> tuple[str, str]:
    """Return a code and one sentence that say what became of a machine. The sentence never names a node.

    For a machine that waits the code is that of the reason which all nodes share, or `no_placement` if they differ.
    With `pinned`, only one node was looked at because somebody chose it (`Request.only`).
    """
    if decision.node is not None:
        return "placed", f"{decision.fitting} of {decision.considered} nodes can take it"
    if not decision.considered:
        return "no_nodes", "there is no such node" if pinned else "there is no node"
    counted = Counter[str]()
    for rejection in decision.rejected:
        counted[rejection.code] += rejection.nodes
    shared = [code for code, count in counted.items() if count >= decision.considered]
    code = min(shared) if shared else "no_placement"
    if decision.considered == 1 and code == EXCLUDED.code and not pinned:
        return code, "there is no other node"
    if decision.considered == 1:
        which = "the chosen node" if pinned else "the only node"
        return code, f"{which} cannot take it: {'; '.join(one.message for one in decision.rejected)}"
    parts = [f"{one.message} ({one.nodes} of {decision.considered} nodes)" for one in decision.rejected[:SHOWN]]
    return code, f"no node can take it: {'; '.join(parts)}"

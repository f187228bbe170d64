"""What a node reports is written, in one transaction per report. Called by the agent's link for each `Observed`."""

from nacre.control.services import copies, node_signs, vm_facts
from nacre.control.store.db import Database
from nacre.control.store.nodes import accept_observation
from nacre.model.ids import NodeId
from nacre.protocol.messages import Observed


async def apply(db: Database, node: NodeId, observed: Observed, *, instance: str = "") -> bool:
    """Store facts durably. False for a report that is older than what is stored, which changes nothing.

    `instance` is the start of the agent that reports: one whose place another has taken is not listened to.
    """
    async with db.write() as tx:
        name = await accept_observation(tx, node, instance, observed.sequence)
        if name is None:
            return False
        await vm_facts.observe(tx, node, observed.vms, complete=observed.complete, node_name=name)
        if observed.complete:
            await copies.follow(tx, node, observed.copies)
        if observed.complete or observed.held:
            await node_signs.synced(tx, node, observed.held)
        return True

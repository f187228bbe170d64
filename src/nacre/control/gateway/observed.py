"""What nodes report is written, many reports in one transaction. Called by the gateway's ledger."""

from collections.abc import Sequence
from dataclasses import dataclass

from nacre.control.services import copies, node_signs, pools, vm_facts, volume_facts
from nacre.control.store import copies as copy_store
from nacre.control.store import move_streams, vms
from nacre.control.store.db import Database, Tx
from nacre.control.store.move_streams import Told
from nacre.control.store.nodes import Accepted, accept_observations
from nacre.control.wake import MOVES
from nacre.model.ids import NodeId
from nacre.protocol.messages import Observed


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one node says."""

    node: NodeId
    instance: str
    """The start of the agent that reports: one whose place another has taken is not listened to. "" is any."""
    facts: Observed


async def apply(db: Database, node: NodeId, observed: Observed, *, instance: str = "") -> bool:
    """Store facts durably. False for a report that is older than what is stored, which changes nothing."""
    async with db.write() as tx:
        return (await apply_all(tx, [Report(node=node, instance=instance, facts=observed)]))[0]


async def apply_all(tx: Tx, reports: Sequence[Report]) -> list[bool]:
    """Store reports in their order. False for those that are older than what is stored."""
    done: list[bool] = []
    while len(done) < len(reports):
        done += await _each_once(tx, _unlike(reports[len(done) :]))
    told = [
        Told(node=report.node, vm=vm.id, outgoing=vm.outgoing, arriving=vm.arriving)
        for report, accepted in zip(reports, done, strict=True)
        for vm in report.facts.vms
        if accepted and (vm.outgoing is not None or vm.arriving is not None)
    ]
    if told and await move_streams.follow(tx, told):
        tx.wake(MOVES)
    return done


def _unlike(reports: Sequence[Report]) -> Sequence[Report]:
    """Return as many of the first reports as are about different nodes."""
    seen: set[NodeId] = set()
    for index, report in enumerate(reports):
        if report.node in seen:
            return reports[:index]
        seen.add(report.node)
    return reports


async def _each_once(tx: Tx, reports: Sequence[Report]) -> list[bool]:
    told = {report.node: (report.instance, report.facts.sequence) for report in reports}
    accepted = await accept_observations(tx, told)
    whole = [report.node for report in reports if report.facts.complete]
    hosts = await vms.hosts(tx, whole) if whole else set[NodeId]()
    keepers = await copy_store.counts(tx, whole) if whole else {}
    await pools.follow(tx, {one.node: one.facts.pools for one in reports if one.facts.pools and one.node in accepted})
    for report in sorted(reports, key=lambda report: report.node):
        before = accepted.get(report.node)
        if before is not None:
            await _store(tx, report, before, is_host=report.node in hosts, is_keeper=report.node in keepers)
    return [report.node in accepted for report in reports]


async def _store(tx: Tx, report: Report, before: Accepted, *, is_host: bool, is_keeper: bool) -> None:
    """Store one report. What would find nothing to do, as for an idle node that says so, is left out."""
    facts = report.facts
    if is_host if facts.complete else facts.vms:
        await vm_facts.observe(tx, report.node, facts.vms, complete=facts.complete, node_name=before.name)
    if is_keeper or facts.copies:
        await copies.follow(tx, report.node, facts)
    if facts.volumes:
        await volume_facts.observe(tx, report.node, facts.volumes, node_name=before.name)
    settled = before.held is None and before.teardown_allowed_at is None
    if facts.held or (facts.complete and not settled):
        await node_signs.synced(tx, report.node, facts.held)

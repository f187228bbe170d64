"""What both nodes say of a stream is kept, and never becomes less than it was."""

from datetime import UTC, datetime

import pytest

from nacre.control.store import move_streams
from nacre.control.store.db import Database
from nacre.control.store.move_streams import StreamRow, Told, after_report
from nacre.model.ids import MoveId, NodeId, StreamId, VmId
from nacre.model.migrations import ArrivalObserved, ArrivalState, OutgoingObserved, SendState

pytestmark = pytest.mark.anyio

A, B, VM, STREAM = NodeId("node-a"), NodeId("node-b"), VmId("vm-1"), StreamId("str-1")
NOW = datetime(2030, 1, 1, tzinfo=UTC)
ROW = StreamRow(
    id=STREAM, move=MoveId("mov-1"), vm=VM, source=A, target=B, addresses=[], created_at=NOW, changed_at=NOW
)


def sends(state: SendState, *, node: NodeId = A, bytes_: int = 0) -> Told:
    said = OutgoingObserved(stream=STREAM, state=state, transferred_bytes=bytes_)
    return Told(node=node, vm=VM, outgoing=said)


def takes(state: ArrivalState, *, node: NodeId = B) -> Told:
    return Told(node=node, vm=VM, arriving=ArrivalObserved(stream=STREAM, state=state, addresses=("b:1",)))


def test_only_its_own_nodes_are_believed() -> None:
    assert after_report(ROW, sends(SendState.SENT, node=B)) == ROW
    assert after_report(ROW, takes(ArrivalState.ARRIVED, node=A)) == ROW


def test_what_was_sent_stays_sent_and_what_failed_stays_failed() -> None:
    sent = after_report(ROW, sends(SendState.SENT, bytes_=7))
    for state in SendState:
        assert after_report(sent, sends(state)) == sent
    failed = after_report(ROW, sends(SendState.FAILED))
    assert all(after_report(failed, sends(state)).sending is SendState.FAILED for state in SendState)
    gone = after_report(ROW, takes(ArrivalState.FAILED))
    assert all(after_report(gone, takes(state)) == gone for state in ArrivalState)
    lost = after_report(after_report(ROW, takes(ArrivalState.ARRIVED)), takes(ArrivalState.FAILED))
    assert lost.arrival is ArrivalState.FAILED


async def test_reports_of_both_nodes_come_together(database: Database) -> None:
    async with database.write() as tx:
        await move_streams.add(tx, ROW)
    async with database.write() as tx:
        assert await move_streams.follow(tx, [takes(ArrivalState.READY), sends(SendState.COPYING, bytes_=3)])
        assert not await move_streams.follow(tx, [sends(SendState.COPYING, bytes_=5)])
        assert not await move_streams.follow(tx, [sends(SendState.COPYING, bytes_=5)])
        assert not await move_streams.follow(tx, [Told(node=A, vm=VM)])
    async with database.read() as rd:
        row = await move_streams.get(rd, STREAM)
    assert row is not None
    assert (row.addresses, row.transferred_bytes, row.is_whole) == (["b:1"], 5, False)
    async with database.write() as tx:
        await move_streams.follow(tx, [sends(SendState.SENT), takes(ArrivalState.ARRIVED)])
    async with database.read() as rd:
        assert (await move_streams.many(rd, [STREAM]))[STREAM].is_whole

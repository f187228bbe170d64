"""Leases on record: many in one transaction, for the tenure that a node has, and answered after the commit."""

import asyncio
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import pytest

from nacre.control.gateway.leases import Renewals
from nacre.control.gateway.ledger import Ledger
from nacre.control.store.db import Database
from nacre.model.ids import NodeId
from nacre.protocol.messages import Pull, Renew, Renewed
from support.linking import dialled, greeted, hear, replica, say

pytestmark = pytest.mark.anyio

A, B = NodeId("node-a"), NodeId("node-b")
Asked = tuple[NodeId, int]


class Book:
    """A ledger that knows tenures, and commits when it is told to."""

    def __init__(self, **tenures: int) -> None:
        self.tenures = {NodeId(f"node-{name}"): tenure for name, tenure in tenures.items()}
        self.stored: list[frozenset[Asked]] = []
        self.commit = asyncio.Event()
        self.commit.set()
        self.away = False

    async def renew(self, asked: Collection[Asked], lease_s: float) -> frozenset[Asked]:
        assert lease_s == 35
        await self.commit.wait()
        if self.away:
            raise ConnectionError("away")
        self.stored.append(frozenset(asked))
        return frozenset((node, tenure) for node, tenure in asked if self.tenures.get(node) == tenure)


@asynccontextmanager
async def renewals(book: Book) -> AsyncGenerator[Renewals]:
    made = Renewals(cast("Ledger", book), 35, window_s=0.01)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_what_many_nodes_ask_for_at_once_is_stored_at_once() -> None:
    book = Book(a=1, b=2)
    async with renewals(book) as made:
        asked = (made.ask(A, 1), made.ask(B, 2), made.ask(B, 1), made.ask(A, 1), made.ask(NodeId("node-c"), 1))
        assert await asyncio.gather(*asked) == [True, True, False, True, False]
        assert await made.ask(A, 1) is True
    assert [len(stored) for stored in book.stored] == [4, 1]


async def test_nothing_is_granted_before_it_is_on_record() -> None:
    book = Book(a=1, b=1)
    book.commit.clear()
    async with renewals(book) as made:
        first = asyncio.create_task(made.ask(A, 1))
        done, _ = await asyncio.wait([first], timeout=0.1)
        assert not done
        second = asyncio.create_task(made.ask(B, 1))
        book.commit.set()
        assert await first is True
        assert await second is True


async def test_what_could_not_be_stored_is_not_answered_and_the_next_try_is() -> None:
    book = Book(a=1)
    async with renewals(book) as made:
        book.away = True
        assert await made.ask(A, 1) is None
        book.away = False
        assert await made.ask(A, 1) is True


async def test_a_link_that_ends_meanwhile_does_no_harm() -> None:
    book = Book(a=1, b=1)
    book.commit.clear()
    async with renewals(book) as made:
        gone, stays = asyncio.create_task(made.ask(A, 1)), asyncio.create_task(made.ask(B, 1))
        await asyncio.wait([gone], timeout=0.05)
        gone.cancel()
        book.commit.set()
        assert await stays is True


async def test_who_waits_when_the_gateway_closes_is_let_go() -> None:
    book = Book(a=1)
    book.commit.clear()
    async with renewals(book) as made:
        waiting = asyncio.create_task(made.ask(A, 1))
        await asyncio.wait([waiting], timeout=0.05)
    assert await waiting is None


async def test_a_lease_is_granted_over_the_link_for_the_tenure_of_the_desired_state(
    sqlite_database: Database, tmp_path: Path
) -> None:
    async with replica(sqlite_database, tmp_path) as gate:
        identity, _ = await gate.enrolled(tmp_path / "identity")
        async with dialled(gate.address, "/agent", gate.ca.roots_pem, identity.pair) as connection:
            welcome = await greeted(connection, gate.db, identity.node)
            assert (welcome.lease_s, welcome.renew_s) == (35.0, 2.0)
            await say(connection, Pull())
            await hear(connection)
            await say(connection, Renew(sequence=1, tenure=1))
            assert await hear(connection) == Renewed(sequence=1, granted=True)
            await say(connection, Renew(sequence=2, tenure=2))
            assert await hear(connection) == Renewed(sequence=2, granted=False)
        row = await gate.node(identity.node)
        assert (row.renewals, row.lease_s) == (1, 35.0)

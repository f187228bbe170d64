"""Renewals of leases: those of many nodes are stored in one transaction, and answered once it has committed.

Made by `gateway/server.py`, asked by each node's link. It decides nothing: the rule is in the ledger.
"""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from nacre.control.gateway.ledger import Ledger
from nacre.model.ids import NodeId

WINDOW_S = 0.02
"""Renewals that arrive within this time of the first are stored together."""

log = structlog.get_logger()

_Waiting = Mapping[tuple[NodeId, int], Sequence["asyncio.Future[bool | None]"]]


class Renewals:
    """Collects what nodes ask for."""

    def __init__(self, ledger: Ledger, lease_s: float, *, window_s: float = WINDOW_S) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._window_s = window_s
        self._waiting: dict[tuple[NodeId, int], list[asyncio.Future[bool | None]]] = {}
        self._asked = asyncio.Event()
        self._failures = 0

    async def ask(self, node: NodeId, tenure: int) -> bool | None:
        """Return whether a lease for this tenure is on record; None if that could not be stored, so nobody knows."""
        answer: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault((node, tenure), []).append(answer)
        self._asked.set()
        return await answer

    async def run(self) -> None:
        """Store what is asked for until cancelled."""
        waiting: _Waiting = {}
        try:
            while True:
                await self._asked.wait()
                await asyncio.sleep(self._window_s)
                self._asked.clear()
                waiting, self._waiting = self._waiting, {}
                await self._store(waiting)
        finally:
            for each in (waiting, self._waiting):
                _answer(each, None)

    async def _store(self, waiting: _Waiting) -> None:
        try:
            granted = await self._ledger.renew(waiting.keys(), self._lease_s)
        except Exception:
            self._failures += 1
            if self._failures == 1:
                log.exception("gateway.leases_failed", nodes=len(waiting), next="the nodes ask again")
            _answer(waiting, None)
            return
        if self._failures:
            log.info("gateway.leases_recovered", failures=self._failures)
        self._failures = 0
        for asked, answers in waiting.items():
            _answer({asked: answers}, asked in granted)


def _answer(waiting: _Waiting, answer: bool | None) -> None:
    for answers in waiting.values():
        for future in answers:
            if not future.done():  # whose link is gone is not waiting any more
                future.set_result(answer)

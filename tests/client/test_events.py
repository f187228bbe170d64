import pytest

from nacre.client import events
from nacre.client.api import Nacre
from nacre.errors import NacreError, UnauthenticatedError
from support.api_stub import ApiStub, event
from support.patience import within

pytestmark = pytest.mark.anyio


async def take(nacre: Nacre, count: int, gaps: list[NacreError]) -> list[int]:
    cursors: list[int] = []
    async with within(10):
        async for found in nacre.events.follow(after=0, gap=gaps.append):
            cursors.append(found.cursor)
            if len(cursors) == count:
                break
    return cursors


async def test_a_stream_that_breaks_goes_on_without_loss_or_repetition(
    stub: ApiStub, nacre: Nacre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FIRST_PAUSE_S", 0.01)
    stub.events = [event(number) for number in range(1, 8)]
    stub.stream_length = 3
    gaps: list[NacreError] = []
    assert await take(nacre, 7, gaps) == [1, 2, 3, 4, 5, 6, 7]
    assert len(gaps) == 2
    assert [headers.get("Last-Event-ID") for _, _, _, headers in stub.requests] == ["0", "3", "6"]


async def test_a_server_that_is_away_is_tried_until_it_is_back(
    stub: ApiStub, nacre: Nacre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "FIRST_PAUSE_S", 0.01)
    stub.events = [event(1)]
    stub.answers = [(0, b""), stub.problem(503, "starting", "not yet")]
    stub.answers[1] = (503, stub.answers[1][1].replace(b'"retryable":false', b'"retryable":true'))
    gaps: list[NacreError] = []
    assert await take(nacre, 1, gaps) == [1]
    assert len(gaps) == 2


async def test_a_token_that_is_refused_ends_the_stream(stub: ApiStub) -> None:
    async with Nacre(stub.url, "wrong") as stranger:
        with pytest.raises(UnauthenticatedError):
            await take(stranger, 1, [])


async def test_the_latest_events_come_oldest_first(stub: ApiStub, nacre: Nacre) -> None:
    from nacre.client.collection import Query

    stub.events = [event(number) for number in range(1, 30)]
    assert [found.cursor for found in await nacre.events.latest(Query(limit=3))] == [27, 28, 29]
    assert [found.cursor for found in await nacre.events.since(5, Query(limit=2))] == [6, 7]

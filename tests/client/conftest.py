"""A server of our own, and a client for it."""

from collections.abc import AsyncGenerator, Generator

import pytest

from nacre.client.api import Nacre
from support.api_stub import TOKEN, ApiStub, api_stub


@pytest.fixture
def stub() -> Generator[ApiStub]:
    with api_stub() as running:
        yield running


@pytest.fixture
async def nacre(stub: ApiStub) -> AsyncGenerator[Nacre]:
    async with Nacre(stub.url, TOKEN) as client:
        yield client

"""Certificates are judged by the host's clock too, so tests of the gateway begin now."""

from datetime import UTC, datetime

import pytest

from nacre.lib.clock import ManualClock


@pytest.fixture(scope="package")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop that the programs run on; its TLS is not the standard library's."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still at the present until a test moves it."""
    return ManualClock(datetime.now(UTC))

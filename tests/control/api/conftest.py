"""An API over each kind of database, with its first administrator."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from nacre.control.store.db import Database
from support.api import Api, api_over, on_a_socket


@pytest.fixture
async def api(database: Database, tmp_path: Path) -> Api:
    """The API in this process, once on each kind of database."""
    return await api_over(database, tmp_path / "data")


@pytest.fixture
async def one_api(sqlite_database: Database, tmp_path: Path) -> Api:
    """The API in this process, for what does not depend on the database."""
    return await api_over(sqlite_database, tmp_path / "data")


@pytest.fixture
async def served(one_api: Api) -> AsyncGenerator[Api]:
    """The API on a real socket."""
    async with on_a_socket(one_api) as url:
        one_api.url = url
        yield one_api

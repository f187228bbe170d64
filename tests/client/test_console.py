import pytest

from nacre.client.api import Nacre
from nacre.client.console import Console
from nacre.errors import NotFoundError, UnauthenticatedError, UnavailableError
from support.api_stub import ApiStub

pytestmark = pytest.mark.anyio


async def everything(console: Console) -> bytes:
    return b"".join([data async for data in console.output()])


async def test_a_console_shows_what_was_said_before_and_what_is_answered(stub: ApiStub, nacre: Nacre) -> None:
    stub.add_vm("web")
    async with nacre.console("web") as console:
        await console.write(b"hello\n")
        await console.write(b"quit\n")
        assert await everything(console) == b"greetings\r\nHELLO\n"
        assert console.reason == "the machine stopped"


async def test_a_broken_console_is_told_from_one_that_was_closed(stub: ApiStub, nacre: Nacre) -> None:
    stub.add_vm("web")
    async with nacre.console("web") as console:
        await console.write(b"drop\n")
        with pytest.raises(UnavailableError):
            await everything(console)


async def test_a_console_of_no_machine_is_not_found(nacre: Nacre) -> None:
    with pytest.raises(NotFoundError, match="no such machine"):
        async with nacre.console("nobody"):
            pass


async def test_a_console_needs_a_token(stub: ApiStub) -> None:
    stub.add_vm("web")
    async with Nacre(stub.url) as stranger:
        with pytest.raises(UnauthenticatedError):
            async with stranger.console("web"):
                pass


async def test_a_console_where_nobody_listens_is_unreachable() -> None:
    async with Nacre("http://127.0.0.1:1", "x") as nobody:
        with pytest.raises(UnavailableError):
            async with nobody.console("web"):
                pass

import socket
from pathlib import Path

import pytest

from nacre.cli import exits
from nacre.cli.datadir import DataDir
from nacre.cli.up import Address, _gateway, parse_address
from nacre.errors import InvalidInputError
from support.command_line import Run


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7480", Address("127.0.0.1", 7480)),
        ("[::1]:7480", Address("::1", 7480)),
        ("0.0.0.0:1", Address("0.0.0.0", 1)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: Address) -> None:
    assert parse_address(text, "listen") == address
    assert str(address) == text


@pytest.mark.parametrize("text", ["7480", ":7480", "::1:7480", "[127.0.0.1]:7480", "x:0", "x:65536", "x:y", "x:-1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_address(text, "listen")
    assert "[::1]:7480" in caught.value.hint


def test_an_address_for_everybody_is_dialled_by_name_of_one() -> None:
    assert Address("0.0.0.0", 1).to_dial() == Address("127.0.0.1", 1)
    assert Address("::", 1).to_dial() == Address("::1", 1)
    assert Address("0.0.0.0", 1).to_dial(abroad=True).host != "0.0.0.0"
    assert Address("10.0.0.1", 1).to_dial(abroad=True) == Address("10.0.0.1", 1)


def test_an_address_in_use_is_said_before_anything_starts(run: Run, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ran = run("up", "--data", str(tmp_path / "data"), "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert ran.code == exits.CONFLICT
    assert "--listen" in ran.err
    assert not (tmp_path / "data" / "up.json").exists()


def test_agents_find_the_gateway_where_it_was_or_on_a_free_port_nearby(tmp_path: Path) -> None:
    root = DataDir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        api = Address("127.0.0.1", taken.getsockname()[1] - 1)
        chosen = _gateway(root, api)
        assert api.port + 1 < chosen.port <= api.port + 20
        root.write_config("control", {"gateway_listen": str(chosen)})
    assert _gateway(root, api) == chosen
    assert _gateway(root, Address("127.0.0.2", api.port)).host == "127.0.0.2"


def test_down_where_nothing_ever_was_is_not_found(run: Run, tmp_path: Path) -> None:
    assert run("down", "--data", str(tmp_path / "none")).code == exits.NOT_FOUND


def test_down_may_be_repeated(run: Run, tmp_path: Path) -> None:
    ran = run("down", "--data", str(tmp_path), "--vms")
    assert ran.code == exits.OK
    assert "does not run" in ran.err

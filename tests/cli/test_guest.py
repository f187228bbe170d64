"""Commands about the inside of guests as people type them; against a real platform in `flow/test_guest.py`."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from nacre.cli import cloud_init, exits, guest, vm_views
from nacre.cli.cloud_init import Seeding
from nacre.errors import InvalidInputError, NacreError, TimeoutExpiredError
from nacre.model.commands import ExecResult
from nacre.model.guests import GuestAddress, GuestInfo, SeedRef
from nacre.model.metrics import MetricPoint
from support.api_stub import NOW, ApiStub
from support.command_line import Run


@pytest.mark.parametrize(
    ("result", "code"),
    [(ExecResult(exit_code=0), 0), (ExecResult(exit_code=7), 7), (ExecResult(signal=9), 137)],
)
def test_the_exit_code_is_the_commands(result: ExecResult, code: int) -> None:
    assert guest._exit_code(result, "60s") == code


def test_what_could_not_be_run_or_took_too_long_is_an_error_of_ours() -> None:
    with pytest.raises(TimeoutExpiredError):
        guest._exit_code(ExecResult(timed_out=True), "60s")
    with pytest.raises(NacreError, match="refused"):
        guest._exit_code(ExecResult(code="guest_agent_refused", message="it refused", hint="look"), "60s")


def test_a_command_is_needed(nacre: Run) -> None:
    ran = nacre("vm", "exec", "web")
    assert ran.code == exits.USAGE
    assert "hint: write it behind --" in ran.err


def test_files_become_what_is_sent_and_words_stay_off_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("#!/bin/sh\n")
    (tmp_path / "keys").write_text("# mine\nssh-ed25519 AAAA ann\n\nssh-ed25519 BBBB ann\n")
    (tmp_path / "password").write_text("geheim\n")
    sent = cloud_init.body(
        Seeding(
            user_data=str(tmp_path / "user"),
            ssh_key=(str(tmp_path / "keys"),),
            password_file=str(tmp_path / "password"),
            meta=("role=web",),
        )
    )
    assert sent is not None
    assert (sent.user_data, sent.password, sent.meta_data) == ("#!/bin/sh\n", "geheim", {"role": "web"})
    assert sent.ssh_keys == ("ssh-ed25519 AAAA ann", "ssh-ed25519 BBBB ann")
    assert cloud_init.body(Seeding()) is None
    with pytest.raises(InvalidInputError) as refused:
        cloud_init.body(Seeding(user_data=str(tmp_path / "none")))
    assert refused.value.field == "user-data"


def test_addresses_and_what_is_given_are_shown(nacre: Run, stub: ApiStub) -> None:
    inside = GuestInfo(
        agent_version="7.2",
        hostname="web-1",
        os="Debian",
        kernel="6.1",
        addresses=(
            GuestAddress(address="fe80::1", prefix=64, interface="eth0", nic="nic0"),
            GuestAddress(address="172.17.0.1", prefix=16, interface="docker0"),
            GuestAddress(address="10.0.2.15", prefix=24, interface="eth0", nic="nic0"),
        ),
        seen_at=NOW,
    )
    vm = stub.add_vm("web", guest=inside)
    assert vm_views.reachable(vm.guest) == ["10.0.2.15", "172.17.0.1"]
    assert "10.0.2.15, 172.17.0.1" in nacre("vm", "list").out
    shown = nacre("vm", "show", "web").out
    assert "10.0.2.15/24 on eth0" in shown
    assert "Debian, kernel 6.1" in shown
    assert vm_views._seed(SeedRef(digest="0123456789abcdef", parts=("user_data",))) == "user_data (0123456789ab)"


def test_points_are_lines_and_what_nobody_knows_is_a_dash() -> None:
    point = MetricPoint(at=datetime(2026, 1, 2, tzinfo=UTC), cpu_cores=1.5, memory_resident_bytes=1 << 30)
    assert [column.text(point) for column in guest.POINTS][1:] == ["150%", "1GiB", "-", "-", "-", "-", "-"]

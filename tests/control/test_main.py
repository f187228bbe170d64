"""`nacre-control` as a process: starts, serves, writes what it must, and stops in bounded time."""

import asyncio
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import httpx2
import pytest

from nacre.control.main import read_settings
from nacre.errors import InvalidInputError
from nacre.protocol import join
from support.platform import Platform, eventually, free_port
from support.postgres import Cluster, cluster


@pytest.fixture
def platform(database_url: str, tmp_path: Path):
    running = Platform(tmp_path, database=database_url, agents=0, enrolment_token_file=str(tmp_path / "join"))
    try:
        yield running
    finally:
        running.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_serves_hands_out_the_claim_and_a_join_string_and_stops_at_once(platform: Platform) -> None:
    control = platform.add_control()
    claim = platform.root / "claim"
    assert mode(claim) == 0o600
    secret = claim.read_text().strip()
    assert secret not in control.log.read_text()
    platform.claim()
    assert not claim.exists()
    assert platform.get("/v1/me")["user"]["name"] == "admin"

    written = platform.root / "join"
    assert mode(written) == 0o600
    assert join.decode(written.read_text()).gateways

    ready = httpx2.get(platform.url + "/readyz").json()
    assert {check["name"] for check in ready["checks"]} >= {"database", "gateway", "reconciler-vms"}
    assert "nacre_linked_nodes 0.0" in httpx2.get(platform.url + "/metrics").text

    assert control.terminate() < 5
    assert control.process is not None
    assert control.process.returncode == 0
    lines = [json.loads(line) for line in control.log.read_text().splitlines()]
    assert lines[-1]["event"] == "control.stopped"
    assert all(line["program"] == "nacre-control" for line in lines)


def test_a_restart_keeps_everything_and_makes_a_new_join_string(platform: Platform) -> None:
    control = platform.add_control()
    platform.claim()
    platform.post("/v1/projects", {"name": "web"})
    before = (platform.root / "join").read_text()
    control.kill()
    control.start()
    eventually(lambda: httpx2.get(platform.url + "/readyz").status_code == 200)
    assert platform.get("/v1/projects/web")["name"] == "web"
    assert (platform.root / "join").read_text() != before
    assert not (platform.root / "claim").exists()
    tokens = platform.get("/v1/nodes/tokens")["items"]
    assert len(tokens) == 1


def test_open_streams_and_waits_do_not_hold_up_the_end(platform: Platform) -> None:
    control = platform.add_control()
    platform.claim()
    headers = {"Authorization": f"Bearer {platform.token}"}
    with (
        httpx2.Client(headers=headers, timeout=30) as client,
        client.stream("GET", platform.url + "/v1/events/stream") as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        assert control.terminate() < 5
        assert [line for line in lines if line] == []


def test_what_happens_at_one_replica_is_heard_at_the_other(postgres_cluster: Cluster, tmp_path: Path) -> None:
    platform = Platform(tmp_path, database=postgres_cluster.url(_new_database(postgres_cluster)), agents=0)
    try:
        first, second = platform.add_control(), platform.add_control()
        platform.claim()
        address = tomllib.loads((tmp_path / "control-1.toml").read_text())["listen"]
        headers = {"Authorization": f"Bearer {platform.token}"}
        with (
            httpx2.Client(headers=headers, timeout=30) as client,
            client.stream("GET", f"http://{address}/v1/events/stream") as stream,
        ):
            lines = stream.iter_lines()
            assert next(lines).startswith(":")
            began = time.monotonic()
            platform.post("/v1/projects", {"name": "web"})
            assert "project.created" in next(line for line in lines if line.startswith("data:"))
            assert time.monotonic() - began < 5  # a heartbeat would have taken fifteen
        first.kill()
        assert httpx2.get(f"http://{address}/v1/projects/web", headers=headers).status_code == 200
        assert second.alive()
    finally:
        platform.stop()


def test_a_database_that_is_away_is_said_so_and_waited_for(tmp_path: Path) -> None:
    with cluster() as database:
        platform = Platform(tmp_path, database=database.url(_new_database(database)), agents=0)
        try:
            control = platform.add_control()
            platform.claim()
        except BaseException:
            platform.stop()
            raise
    try:
        ready = eventually(lambda: (a := httpx2.get(platform.url + "/readyz")).status_code == 503 and a.json())
        assert ready["checks"][0]["reason"].startswith("the database does not answer")
        answer = platform.request("GET", "/v1/me")
        assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
        assert answer.headers["retry-after"] == "1"
        assert httpx2.get(platform.url + "/healthz").status_code == 200
        assert control.terminate() < 13
    finally:
        platform.stop()


def _new_database(database: Cluster) -> str:
    return asyncio.run(database.create())


def test_a_taken_address_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        argv = [sys.executable, "-m", "nacre.control.main", "--data-dir", str(tmp_path), "--listen", address]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 1
    assert f"cannot listen on {address}" in run.stderr
    assert "Traceback" not in run.stderr


def test_settings_that_cannot_be_used_end_the_program_with_a_hint(tmp_path: Path) -> None:
    config = tmp_path / "control.toml"
    config.write_text('data_dri = "x"\n')
    argv = [sys.executable, "-m", "nacre.control.main", "--config", str(config)]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 2
    assert run.stderr == "nacre-control: there is no setting 'data_dri'\n  did you mean data_dir?\n"


def test_sigterm_while_starting_is_no_accident(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    argv = [sys.executable, "-m", "nacre.control.main", "--data-dir", str(tmp_path / "d"), "--listen", listen]
    argv += ["--gateway-listen", f"127.0.0.1:{free_port()}"]
    for delay in (0.1, 0.8, 1.6):
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(delay)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode in {0, -signal.SIGTERM}


def test_the_database_with_its_password_is_not_taken_from_the_command_line() -> None:
    with pytest.raises(SystemExit):
        read_settings(["--data-dir", "/d", "--database", "postgresql://user:password@host/name"])


def test_flags_are_named_like_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("NACRE_CONTROL_")]:
        monkeypatch.delenv(name)
    settings = read_settings(["--data-dir", "/d", "--log-level", "debug", "--image-roots", "/a,/b"])
    assert (settings.log_level, settings.image_roots) == ("debug", ("/a", "/b"))
    with pytest.raises(InvalidInputError):
        read_settings([])


def test_a_new_claim_is_written_for_its_owner_only_and_never_shown(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "nacre.control.main", "--data-dir", str(tmp_path), "--new-claim"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    claim = (tmp_path / "claim").read_text().strip()
    assert claim.startswith("nacre_claim_")
    assert stat.S_IMODE((tmp_path / "claim").stat().st_mode) == 0o600
    assert claim not in done.stdout + done.stderr
    assert "--claim-file" in done.stdout

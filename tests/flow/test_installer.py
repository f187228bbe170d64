"""The script that a control plane serves makes a host a node: for real, under a folder instead of the whole host."""

import os
import pty
import re
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from support.platform import Platform, Program, eventually, platform

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform(agents=0, heartbeat_s=1.0, offline_after_s=5.0) as running:
        yield running


@dataclass
class Host:
    """A folder that the script takes for a host."""

    cloud: Platform
    root: Path
    env: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def script(self) -> Path:
        """The script, as it is served."""
        path = self.root / "install.sh"
        path.write_text(httpx2.get(f"{self.cloud.url}/install.sh", timeout=10).text)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """What the script finds: the dependencies are those of the test, unless it says otherwise."""
        libraries = sysconfig.get_path("purelib")
        base = {"NACRE_PREFIX": str(self.root / "host"), "PIP_NO_DEPS": "1", "PYTHONPATH": libraries}
        return {**os.environ, "NACRE_PYTHON": sys.executable, **base, **self.env}

    def run(self, *options: str, **kwargs: str) -> subprocess.CompletedProcess[str]:
        """Run the script as `curl | sh` does, the script on standard input."""
        argv = ["sh", "-s", "--", *options]
        env = self.environment | kwargs
        text = self.script.read_text()
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=900, env=env, check=False)

    def join(self, **fields: object) -> str:
        """A join string."""
        return self.cloud.post("/v1/nodes/tokens", fields)["join"]

    def agent(self) -> Program:
        """The agent as the script says that it is started."""
        home = self.root / "host"
        argv = [str(home / "opt/nacre/current/bin/nacre-agent"), "--config", str(home / "etc/nacre/agent.toml")]
        return Program("agent", argv, self.root / "agent.log", self.environment)


@pytest.fixture
def host(cloud: Platform) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="nacre-") as folder:
        yield Host(cloud, Path(folder))


def joined(cloud: Platform, name: str) -> bool:
    return any((node["name"], node["state"]) == (name, "ready") for node in cloud.get("/v1/nodes")["items"])


def test_a_host_joins_with_the_wheel_of_the_control_plane_and_joins_once(cloud: Platform, host: Host) -> None:
    done = host.run(NACRE_JOIN=host.join(node_name="installed"))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "this host can be a node" in done.stdout
    agent = host.agent()
    assert f"{agent.argv[0]} --config {agent.argv[2]}" in done.stdout
    secret = host.root / "host/etc/nacre/join"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert secret.read_text().strip() not in done.stdout
    agent.start()
    try:
        eventually(lambda: joined(cloud, "installed"), what=f"joined\n{agent.tail()}")
        node = cloud.get("/v1/nodes/installed")
        assert node["agent_version"] == httpx2.get(f"{cloud.url}/healthz", timeout=5).json()["version"]
        code = "import nacre; print(nacre.__file__)"
        python = host.root / "host/opt/nacre/current/bin/python"
        place = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, env=host.environment)
        assert place.stdout.startswith(str(host.root))
        again = host.run()
        assert again.returncode == 0, again.stderr
        assert "already" in again.stdout
        assert "installed already" in again.stdout
        assert not secret.exists()
    finally:
        agent.kill()


def test_an_update_that_breaks_off_is_done_again_and_old_versions_go(cloud: Platform, host: Host) -> None:
    home = host.root / "host/opt/nacre"
    (home / "0.0.1-old").mkdir(parents=True)
    (home / "0.0.2-before").mkdir()
    (home / "current").symlink_to(home / "0.0.2-before")
    broken = host.run("--join-file", "/dev/null", NACRE_JOIN="")
    assert "not a join string" in broken.stderr
    done = host.run(NACRE_JOIN=host.join(), NACRE_PYTHON="/bin/false")
    assert (done.returncode, "no venv" in done.stderr) == (1, True)
    assert (home / "current").resolve() == home / "0.0.2-before"
    done = host.run(NACRE_JOIN=host.join())
    assert done.returncode == 0, done.stderr
    release = (home / "current").resolve()
    assert sorted(path.name for path in home.iterdir()) == ["0.0.2-before", release.name, "current"]
    (release / "complete").unlink()
    (release / "bin/nacre-agent").unlink()
    assert host.run(NACRE_JOIN=host.join()).returncode == 0
    assert (release / "bin/nacre-agent").exists()


def test_a_dry_run_says_all_and_does_nothing(host: Host) -> None:
    done = host.run("--dry-run")
    assert done.returncode == 0, done.stderr
    for words in ("ask for the join string", "install nacre", "write", "check this host"):
        assert words in done.stdout
    assert not (host.root / "host").exists()


def test_a_damaged_wheel_is_not_installed(host: Host) -> None:
    script = host.script.read_text()
    right = re.search("^SHA256=.*$", script, re.MULTILINE)
    assert right is not None
    wrong = script.replace(right[0], f"SHA256={'0' * 64}")
    env = host.environment | {"NACRE_JOIN": host.join()}
    done = subprocess.run(["sh"], input=wrong, capture_output=True, text=True, timeout=120, env=env, check=False)
    assert (done.returncode, "damaged" in done.stderr) == (1, True)
    assert not (host.root / "host/opt/nacre/current").exists()


def test_half_a_script_does_nothing(host: Host) -> None:
    script = host.script.read_text()
    env = host.environment | {"NACRE_JOIN": host.join()}
    done = subprocess.run(
        ["sh"], input=script[: script.rindex("@")], capture_output=True, text=True, timeout=60, env=env, check=False
    )
    assert done.stdout == ""
    assert not (host.root / "host").exists()


def test_without_a_terminal_and_a_join_string_it_says_how_to_give_one(host: Host) -> None:
    script = host.script
    argv = ["setsid", "sh", str(script)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=host.environment, check=False)
    assert done.returncode == 1
    assert "NACRE_JOIN" in done.stderr
    assert host.run("--frobnicate").returncode == 1


def test_on_a_terminal_the_join_string_is_asked_for_and_not_shown(host: Host) -> None:
    script, secret = host.script, host.join()
    child, terminal = pty.fork()
    if child == 0:
        with script.open() as source:
            os.dup2(source.fileno(), 0)
        os.execvpe("sh", ["sh", "-s", "--"], host.environment | {"NACRE_PYTHON": "/bin/false"})
    shown = until_shown(terminal, b"not shown): ")
    os.write(terminal, secret.encode() + b"\n")
    shown += until_shown(terminal, b"NACRE_PYTHON")
    os.waitpid(child, 0)
    os.close(terminal)
    assert secret.encode() not in shown
    assert b"no venv" in shown  # it went on with what it was given


def until_shown(terminal: int, words: bytes, timeout: float = 20) -> bytes:
    """Read what a terminal shows until these words."""
    shown, deadline = b"", time.monotonic() + timeout
    while words not in shown:
        assert select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 4096)
    return shown


def test_taking_the_agent_away_leaves_disks_and_settings(host: Host) -> None:
    assert host.run(NACRE_JOIN=host.join()).returncode == 0
    disk = host.root / "host/var/lib/nacre/agent/vms/vm-1/disk"
    disk.parent.mkdir(parents=True)
    disk.write_text("precious")
    done = host.run("--uninstall")
    assert done.returncode == 0, done.stderr
    assert not (host.root / "host/opt/nacre").exists()
    assert not (host.root / "host/etc/nacre/join").exists()
    assert disk.read_text() == "precious"
    assert (host.root / "host/etc/nacre/agent.toml").exists()


@pytest.mark.timeout(600)
def test_with_all_that_it_depends_on_from_the_package_index(cloud: Platform, host: Host) -> None:
    """The slow one: everything into an empty environment, as on a host that has nothing of ours."""
    host.env = {"PIP_NO_DEPS": "0", "PYTHONPATH": ""}
    done = host.run(NACRE_JOIN=host.join(node_name="fresh"))
    assert done.returncode == 0, done.stderr + done.stdout
    agent = host.agent()
    agent.start()
    try:
        eventually(lambda: joined(cloud, "fresh"), what=f"joined\n{agent.tail()}")
    finally:
        agent.kill()

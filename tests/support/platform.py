"""A whole platform in processes of its own: control plane, agents, real files. For flow tests and benches."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2

from support.guards import guard_pids, is_guard
from support.patience import Patience


def free_port() -> int:
    """A loopback port for a server, that nobody listens on.

    Never one of those that the kernel lends to whoever dials out: such a port may be busy, for a minute, just when a
    server that was stopped comes back to it.
    """
    lent = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10240, lent)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(check: Callable[[], Any], *, timeout: float = 90, what: str = "") -> Any:
    """Return the first true answer of `check`; fail when none came in `timeout` seconds."""
    patience = Patience(timeout)
    last: Any = None
    while not patience.is_over():
        try:
            last = check()
        except (httpx2.HTTPError, OSError) as error:
            last = error
        else:
            if last:
                return last
        time.sleep(0.02)
    raise AssertionError(f"not within {timeout} s: {what or check}; last answer: {last!r}")


class Program:
    """One process of the platform that can be killed and started again."""

    def __init__(self, name: str, argv: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.argv = argv
        self.log = log
        self.env = {**os.environ, **(env or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it in a session of its own, as an init system would."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, env=self.env
            )

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None
        return self.process.pid

    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def terminate(self, timeout: float = 15) -> float:
        """SIGTERM; returns the seconds it took to leave."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)
        return time.monotonic() - began

    def rss_mib(self) -> float:
        """Resident memory."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError("no VmRSS")

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Platform:
    """Control plane and agents under one temporary directory."""

    def __init__(
        self,
        root: Path,
        *,
        database: str | None = None,
        agents: int = 1,
        agent_env: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.root = root
        self.agents: list[Program] = []
        self.url = ""
        self.token = ""
        self.controls: list[Program] = []
        self._database = database
        self._settings = settings
        self._agent_count = agents
        self._agent_env = agent_env

    def start(self) -> "Platform":
        """Bring everything up, claim the first administrator, wait for the nodes."""
        self.add_control()
        self.claim()
        for index in range(self._agent_count):
            self.add_agent(index)
        eventually(
            lambda: sum(n["state"] == "ready" for n in self.get("/v1/nodes")["items"]) == self._agent_count,
            what="nodes ready\n" + "".join(agent.tail() for agent in self.agents),
        )
        return self

    def add_control(self) -> Program:
        """Start one (more) replica of the control plane."""
        index = len(self.controls)
        listen = f"127.0.0.1:{free_port()}"
        directory = self.root / "control"
        directory.mkdir(parents=True, exist_ok=True)
        config = self.root / f"control-{index}.toml"
        values: dict[str, Any] = {
            "data_dir": str(directory),
            "listen": listen,
            "gateway_listen": f"127.0.0.1:{free_port()}",
            "claim_file": str(self.root / "claim"),
            **self._settings,
        }
        if self._database:
            values["database"] = self._database
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        program = Program(
            f"control-{index}",
            [sys.executable, "-m", "nacre.control.main", "--config", str(config)],
            self.root / f"control-{index}.log",
        )
        program.start()
        self.controls.append(program)
        url = f"http://{listen}"
        self.url = self.url or url
        eventually(lambda: httpx2.get(url + "/readyz", timeout=2).status_code == 200, what=f"control\n{program.tail()}")
        return program

    @property
    def control(self) -> Program:
        """The first replica."""
        return self.controls[0]

    @property
    def agent(self) -> Program:
        """The first agent."""
        return self.agents[0]

    def claim(self) -> None:
        """Redeem the one-time claim for the first administrator's token."""
        claim = (self.root / "claim").read_text().strip()
        answer = httpx2.post(self.url + "/v1/claim", json={"claim": claim}, timeout=10)
        assert answer.status_code < 300, answer.text
        self.token = answer.json()["secret"]

    def add_agent(self, index: int) -> Program:
        """Enrol and start one agent."""
        token = self.post("/v1/nodes/tokens", {"node_name": f"node-{index}"})
        directory = self.root / f"agent-{index}"
        directory.mkdir(exist_ok=True)
        config = self.root / f"agent-{index}.toml"
        values = {"data_dir": str(directory), "join": token["join"], "node_name": f"node-{index}"}
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items()))
        program = Program(
            f"agent-{index}",
            [sys.executable, "-m", "nacre.agent.main", "--config", str(config)],
            self.root / f"agent-{index}.log",
            self._agent_env,
        )
        program.start()
        self.agents.append(program)
        return program

    # REST, as a plain HTTP client sees it

    def request(self, method: str, path: str, **kwargs: Any) -> httpx2.Response:
        """One call; the answer as it is."""
        headers = {"Authorization": f"Bearer {self.token}", **kwargs.pop("headers", {})}
        return httpx2.request(method, self.url + path, headers=headers, timeout=kwargs.pop("timeout", 60), **kwargs)

    def get(self, path: str, **params: Any) -> Any:
        """GET that must succeed; the decoded body."""
        return self._good(self.request("GET", path, params=params))

    def post(self, path: str, body: Any = None, **params: Any) -> Any:
        """POST that must succeed; the decoded body."""
        return self._good(self.request("POST", path, json=body, params=params))

    def delete(self, path: str, **params: Any) -> Any:
        """DELETE that must succeed; the decoded body."""
        return self._good(self.request("DELETE", path, params=params))

    @staticmethod
    def _good(answer: httpx2.Response) -> Any:
        assert answer.status_code < 300, f"{answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def import_image(self, name: str, files: dict[str, Path], *, kernel_args: str = "") -> Any:
        """Upload an image and wait until it is ready."""
        body = {"name": name, "artifacts": [{"role": role} for role in files], "kernel_args": kernel_args}
        image = self.post("/v1/images", body)["resource"]
        for role, path in files.items():
            answer = self.request(
                "PATCH",
                f"/v1/images/{image['id']}/artifacts/{role}/upload",
                content=path.read_bytes(),
                headers={
                    "Upload-Offset": "0",
                    "Upload-Length": str(path.stat().st_size),
                    "Content-Type": "application/offset+octet-stream",
                },
            )
            assert answer.status_code < 300, answer.text
        return eventually(
            lambda: (found := self.get(f"/v1/images/{image['id']}"))["state"] == "ready" and found, what=f"image {name}"
        )

    def vm(self, name: str) -> Any:
        """One machine, or None."""
        answer = self.request("GET", f"/v1/vms/{name}")
        return None if answer.status_code == 404 else self._good(answer)

    def log(self, name: str) -> str:
        """The console log of a machine."""
        return self.request("GET", f"/v1/vms/{name}/log").text

    def stop(self) -> None:
        """Stop everything, guests too. For the end of a test; says nothing about graceful behaviour."""
        for program in (*self.agents, *self.controls):
            program.kill()
        for pid in self.guest_pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def guest_pids(self) -> list[int]:
        """Every hypervisor process whose command line names this platform's directory."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            ours = b"qemu-system" in command and str(self.root).encode() in command
            if ours and not is_guard(command) and state not in "ZX":
                found.append(int(entry.name))
        return found

    def guard_pids(self) -> list[int]:
        """The guards of those that have one."""
        return guard_pids(self.root)


@contextlib.contextmanager
def platform(**settings: Any) -> Iterator[Platform]:
    """A running platform in a short-lived directory; its logs are printed when the block fails."""
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    running = Platform(root, **settings)
    try:
        yield running.start()
    except BaseException:
        for program in (*running.controls, *running.agents):
            print(f"--- {program.name}\n{program.tail()}", file=sys.stderr)
        raise
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)

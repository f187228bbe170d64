"""`nacre up`: a control plane and an agent on this machine, kept running in the foreground. Never touches guests."""

import asyncio
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import httpx2
from cyclopts import Parameter

from nacre.cli.datadir import Child, DataDir, Running, default_root
from nacre.cli.exits import note
from nacre.cli.session import Here
from nacre.cli.supervisor import Supervisor, end_children, last_lines, programs
from nacre.errors import ConflictError, InvalidInputError, NacreError, TimeoutExpiredError
from nacre.lib import processes

DEFAULT_LISTEN = "127.0.0.1:7480"
READY_S = 90.0
JOIN_S = 30.0
"""How long the node of this machine may take to join before we go on without it."""
LINK_UP = b'"link.up"'
"""What the agent logs when it is connected."""
GATEWAY_TRIES = 20
LOOK_S = 0.1
HTTP_OK = 200
TEST_NET = ("192.0.2.1", 9)
"""An address that nobody has (RFC 5737): asking for the route to it sends nothing and tells our own address."""


@dataclass(frozen=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def to_dial(self, *, abroad: bool = False) -> "Address":
        """How to reach it: from here, or from other machines."""
        if self.host not in {"0.0.0.0", "::"}:  # noqa: S104  # compared, not listened on
            return self
        return Address(_own_address() if abroad else "127.0.0.1" if self.host != "::" else "::1", self.port)


async def up(
    *,
    data: Annotated[
        Path | None, Parameter(help="Where everything is kept. /var/lib/nacre for root, else ~/.local/share/nacre.")
    ] = None,
    listen: Annotated[str, Parameter(help="Address of the API.")] = DEFAULT_LISTEN,
    gateway: Annotated[
        str | None, Parameter(help="Address that agents dial; otherwise the one before, or the port after the API's.")
    ] = None,
    detach: Annotated[bool, Parameter(negative=(), help="Run in the background, and return when it is ready.")] = False,
    session: Here,
) -> None:
    """Run a control plane and a node on this machine until SIGTERM or Ctrl-C. Guests are left running then."""
    root = DataDir((data or default_root(session.environment)).resolve())
    api = parse_address(listen, "listen")
    agents = parse_address(gateway, "gateway") if gateway else None
    root.prepare()
    if detach:
        await _in_background(root, api, agents)
        return
    held = root.lock()
    try:
        await _supervise(root, api, agents)
    finally:
        os.close(held)


def parse_address(text: str, field: str) -> Address:
    """Return host and port of `ADDR:PORT`, IPv6 in brackets. Raises InvalidInputError."""
    host, _, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    if not bare or (":" in bare) != host.startswith("[") or not port.isascii() or not port.isdigit():
        raise _bad_address(text, field)
    if not 1 <= int(port) < 65535:
        raise _bad_address(text, field)
    return Address(bare, int(port))


async def _supervise(root: DataDir, api: Address, wanted: Address | None) -> None:
    earlier = root.running()
    if earlier is not None:
        for name in await end_children(earlier):
            note(f"stopped nacre-{name}, which an earlier nacre up left behind")
    _check_free(api, "listen")
    agents = wanted or _gateway(root, api)
    _check_free(agents, "gateway")
    _write_configs(root, api, agents)
    url = f"http://{api.to_dial()}"
    own = Child(pid=os.getpid(), start_time=processes.start_time(os.getpid()) or 0)
    running = Running(boot_id=processes.boot_id(), supervisor=own, url=url)
    root.write_running(running)
    supervisor = Supervisor(root, running, programs(root), note)
    joined = _Watched(root.log("agent"), LINK_UP)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, supervisor.stop)
    greeting = asyncio.create_task(_greet(root, url, supervisor, joined))
    try:
        await supervisor.run()
        greeting.cancel()
        await asyncio.wait({greeting})
    finally:
        greeting.cancel()
        root.record.unlink(missing_ok=True)
    if not greeting.cancelled():
        greeting.result()
    note("stopped; guests are left as they were")


class _Watched:
    """A log that is watched, from now on, for something that its program says."""

    def __init__(self, log: Path, wanted: bytes) -> None:
        self._log, self._wanted = log, wanted
        self._from = log.stat().st_size if log.exists() else 0

    async def said(self, patience_s: float) -> bool:
        """Whether the program says it before `patience_s` have passed."""
        try:
            async with asyncio.timeout(patience_s):
                while self._wanted not in await asyncio.to_thread(self._new):  # noqa: ASYNC110  # a file rings no bell
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return False
        return True

    def _new(self) -> bytes:
        if not self._log.exists():
            return b""
        with self._log.open("rb") as file:
            file.seek(self._from)
            return file.read()


async def _greet(root: DataDir, url: str, supervisor: Supervisor, joined: _Watched) -> None:
    """Say how to go on once the API answers and the node is there. Stops everything and raises if it never does."""
    coming = asyncio.create_task(_come_up(url, supervisor, joined))
    hopeless = asyncio.create_task(supervisor.hopeless.wait())
    try:
        await asyncio.wait({coming, hopeless}, timeout=READY_S, return_when=asyncio.FIRST_COMPLETED)
        if coming.done():
            if not coming.result():
                note(f"the node of this machine has not joined yet; why is in {root.log('agent')}")
            supervisor.ready()
            note(welcome(root, url))
            return
    finally:
        coming.cancel()
        hopeless.cancel()
        await asyncio.gather(coming, hopeless, return_exceptions=True)
    supervisor.stop()
    failing = sorted(supervisor.failing) or ["control"]  # nobody ended, so it is the API that does not answer
    for name in failing:
        note(f"--- {root.log(name)}\n{last_lines(root.log(name))}")
    raise NacreError(
        "not_ready",
        f"{' and '.join(f'nacre-{name}' for name in failing)} will not come up",
        hint="the reason is in the last lines above, or further up in the logs",
    )


async def _come_up(url: str, supervisor: Supervisor, joined: _Watched) -> bool:
    """Return when the control plane is ready: whether the node of this machine has joined it, too."""
    await _ready(url)
    supervisor.release()
    return await joined.said(JOIN_S)


async def _ready(url: str) -> None:
    """Return when the control plane says that it is ready."""
    async with httpx2.AsyncClient(trust_env=False, timeout=5) as http:
        while True:
            try:
                if (await http.get(f"{url}/readyz")).status_code == HTTP_OK:
                    return
            except httpx2.TransportError:
                pass  # not listening yet
            await asyncio.sleep(LOOK_S)


def welcome(root: DataDir, url: str) -> str:
    """Return what is said when everything is ready."""
    lines = [f"Nacre is up at {url} (the API is described at {url}/docs)", f"data and logs are under {root.root}"]
    if root.claim.exists():
        lines += [
            "Nobody has logged in yet. Become the administrator with the one-time claim:",
            f"  nacre login {url} --claim-file {root.claim}",
        ]
        if sys.stderr.isatty():  # on a screen it can be read and is gone; a log would keep it
            lines.append(f"  nacre login {url} --claim {root.claim.read_text().strip()}")
    else:
        lines.append(f"log in with: nacre login {url}")
    return "\n".join(lines)


async def _in_background(root: DataDir, api: Address, agents: Address | None) -> None:
    """Start the supervisor in a session of its own and wait until it is ready. Does nothing if it runs already."""
    found = root.running()
    if found is not None and found.supervisor.alive() and found.ready:
        note(f"nacre up runs already (pid {found.supervisor.pid})\n{welcome(root, found.url)}")
        return
    argv = [sys.executable, "-m", "nacre.cli.main", "up", "--data", str(root.root)]
    argv += ["--listen", str(api), *(["--gateway", str(agents)] if agents else [])]
    before = root.own_log.stat().st_size if root.own_log.exists() else 0
    with processes.spawn(argv, output=root.own_log) as process:
        try:
            async with asyncio.timeout(READY_S):
                while True:
                    found = root.running()
                    if found is not None and found.supervisor.pid == process.pid and found.ready:
                        break
                    if await process.wait(LOOK_S):
                        note(last_lines(root.own_log, 20, after=before))
                        raise NacreError(
                            "not_started", "nacre up ended at once", hint=f"the reason is above and in {root.own_log}"
                        )
        except TimeoutError as error:
            raise TimeoutExpiredError(
                "not_ready", f"not ready within {READY_S:g} s", hint=f"look into {root.own_log} and the logs beside it"
            ) from error
        note(f"running in the background (pid {process.pid}); stop it with nacre down --data {root.root}")
    note(welcome(root, found.url))


def _write_configs(root: DataDir, api: Address, agents: Address) -> None:
    root.write_config(
        "control",
        {
            "data_dir": str(root.folder("control")),
            "listen": str(api),
            "gateway_listen": str(agents),
            "gateway_advertise": str(agents.to_dial(abroad=True)),
            "claim_file": str(root.claim),
            "enrolment_token_file": str(root.join),
        },
    )
    root.write_config("agent", {"data_dir": str(root.folder("agent")), "join_file": str(root.join)})


def _gateway(root: DataDir, api: Address) -> Address:
    """Where agents dial if nobody says: as before, so that they find it again; else on the first free port nearby."""
    before = root.setting("control", "gateway_listen")
    likely = [parse_address(before, "gateway")] if before else []
    likely = [address for address in likely if address.host == api.host]
    likely += [Address(api.host, port) for port in range(api.port + 1, min(api.port + GATEWAY_TRIES, 65535))]
    for address in likely:
        try:
            _check_free(address, "gateway")
        except ConflictError:
            continue
        return address
    return likely[0] if likely else Address(api.host, api.port - 1)


def _check_free(address: Address, field: str) -> None:
    """Raise if nobody could listen there: a clear word now instead of a child that fails again and again."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except socket.gaierror as error:
            raise _bad_address(str(address), field) from error
        except OSError as error:
            raise ConflictError(
                "address_in_use",
                f"cannot listen on {address}: {error.strerror}",
                hint=f"choose another one with --{field}, or find out who uses it: ss -ltnp",
                field=field,
            ) from error


def _own_address() -> str:
    """The address that other machines most likely reach this one by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(TEST_NET)
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _bad_address(text: str, field: str) -> InvalidInputError:
    return InvalidInputError(
        "invalid_address",
        f"{text!r} is not an address to listen on",
        hint="write ADDR:PORT, such as 127.0.0.1:7480, 0.0.0.0:7480 or [::1]:7480",
        field=field,
    )

"""A PostgreSQL cluster of the test session's own: made by initdb, reached by unix socket, gone at the end.

One per xdist worker. The server dies with the process that started it, even if that is killed.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg

from support.patience import Patience

USER = "nacre"
TEMPLATE = "nacre_template"
_START_TIMEOUT_S = 60
_FAST = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "shared_buffers=32MB",
    "autovacuum=off",
    "listen_addresses=",
    "unix_socket_permissions=0777",
)


class Cluster:
    """A running server. Databases are made from a template and dropped by name."""

    def __init__(self, socket_dir: Path) -> None:
        self._socket_dir = socket_dir
        self._made = 0

    def url(self, name: str) -> str:
        """What `Database.from_url` takes."""
        return f"postgresql://{USER}@/{name}?host={self._socket_dir}"

    async def create(self, name: str | None = None, *, template: str = "template0") -> str:
        """Make a database and return its name."""
        self._made += 1
        name = name or f"test_{self._made}"
        await self._execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    async def drop(self, name: str) -> None:
        """Remove a database, throwing out whoever is still connected."""
        await self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(host=str(self._socket_dir), user=USER, database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def cluster() -> Generator[Cluster]:
    """Make, start and finally remove a cluster."""
    base = Path(tempfile.mkdtemp(prefix="nacre-pg-", dir="/tmp"))
    data = base / "data"
    try:
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(base, account.pw_uid, account.pw_gid)
        _init(data)
        server = _start(data, base)
        try:
            _wait_ready(server, base)
            yield Cluster(base)
        finally:
            server.terminate()
            with suppress(subprocess.TimeoutExpired):
                server.wait(5)
            if server.poll() is None:
                server.kill()
                server.wait(10)
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _init(data: Path) -> None:
    command = [_binary("initdb"), "-D", str(data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--no-locale"]
    subprocess.run([*_as_postgres(), *command, "--no-sync", "--no-instructions"], check=True, capture_output=True)


def _start(data: Path, base: Path) -> subprocess.Popen[bytes]:
    settings = [word for setting in _FAST for word in ("-c", setting)]
    command = [_binary("postgres"), "-D", str(data), "-k", str(base), *settings]
    with (base / "log").open("wb") as log:
        return subprocess.Popen(
            [*_as_postgres("--pdeathsig", "QUIT"), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _wait_ready(server: subprocess.Popen[bytes], base: Path) -> None:
    patience = Patience(_START_TIMEOUT_S)
    probe = [_binary("pg_isready"), "-q", "-h", str(base), "-U", USER]
    while subprocess.run(probe, check=False).returncode != 0:
        if server.poll() is not None or patience.is_over():
            raise RuntimeError(f"PostgreSQL did not start: {(base / 'log').read_text()[-2000:]}")
        time.sleep(0.05)


def _as_postgres(*options: str) -> list[str]:
    """Words to put before a command: the server's programs refuse to run as root."""
    if os.geteuid() != 0:
        return ["setpriv", *options] if options else []
    account = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups", *options]


def _binary(name: str) -> str:
    """Debian keeps the server's programs out of PATH."""
    found = shutil.which(name)
    if found is not None:
        return found
    versions = sorted(Path("/usr/lib/postgresql").glob("*"), key=lambda path: float(path.name), reverse=True)
    for version in versions:
        candidate = version / "bin" / name
        if candidate.exists():
            return str(candidate)
    raise RuntimeError(f"{name} is missing: install PostgreSQL's server")

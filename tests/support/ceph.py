"""A Ceph cluster of the test session's own: a monitor, a manager and a store in memory, on loopback, gone at the end.

One per xdist worker. The daemons die with the process that started them, even if that is killed. Keys are in use.
https://docs.ceph.com/en/pacific/install/manual-deployment/
"""

import base64
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nacre.model.ceph import CephAccess
from support.patience import Patience

PROGRAMS = ("ceph", "ceph-authtool", "ceph-mgr", "ceph-mon", "ceph-osd", "monmaptool", "rbd")
POOL = "volumes"
USER = "nacre"
_SIZE = 1 << 30
_START_TIMEOUT_S = 120
_ALL = {"mon": "allow *", "osd": "allow *", "mgr": "allow *"}
_MAY = {
    "mon.": {"mon": "allow *"},
    "client.admin": _ALL,
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    f"client.{USER}": {"mon": "profile rbd", "osd": f"profile rbd pool={POOL}", "mgr": f"profile rbd pool={POOL}"},
    "client.nobody": {"mon": "allow r"},
}
"""Who there is, and what they may."""


def installed() -> bool:
    """Whether this host can run a cluster."""
    return all(shutil.which(program) for program in PROGRAMS)


class Cluster:
    """A running cluster with one pool."""

    def __init__(self, base: Path, port: int, keys: dict[str, str]) -> None:
        self.configuration = base / "ceph.conf"
        self.monitor = f"v2:127.0.0.1:{port}"
        self._keys = keys

    def access(self, user: str = USER) -> CephAccess:
        """How to reach it as somebody who may use the pool."""
        return CephAccess(monitors=(self.monitor,), user=user, key=self._keys[f"client.{user}"])

    def ceph(self, *words: str) -> Any:
        """What the cluster answers its administrator."""
        return json.loads(self._run("ceph", *words, "--format", "json").strip() or "null")

    def rbd(self, *words: str) -> str:
        """What `rbd` prints to its administrator, of the pool."""
        return self._run("rbd", "--pool", POOL, *words)

    def images(self) -> tuple[list[str], list[str]]:
        """Names of the images in the pool, and of those in its trash."""
        trash = json.loads(self.rbd("trash", "ls", "--format", "json"))
        return json.loads(self.rbd("ls", "--format", "json")), [one["name"] for one in trash]

    def _run(self, program: str, *words: str) -> str:
        command = [program, "--conf", str(self.configuration), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@contextmanager
def cluster() -> Generator[Cluster]:
    """Make, start and finally remove a cluster."""
    base = Path(tempfile.mkdtemp(prefix="nacre-ceph-", dir="/tmp"))
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        keys = {name: _new_key() for name in _MAY}
        port = _free_port()
        made = Cluster(base, port, keys)
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        _write(base, fsid, made.monitor, keys)
        _tool("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[{made.monitor}]", str(base / "monmap"))
        _make(base, "ceph-mon", "-i", "a", "--monmap", str(base / "monmap"), "--keyring", str(base / "everyone"))
        daemons.append(_start(base, "ceph-mon", "a"))
        _until(base, lambda: made.ceph("osd", "new", osd, "0") == {"osdid": 0})
        _make(base, "ceph-osd", "-i", "0", "--osd-uuid", osd)
        daemons += [_start(base, "ceph-osd", "0"), _start(base, "ceph-mgr", "x")]
        made.ceph("osd", "pool", "create", POOL, "4", "4")
        _until(base, lambda: made.ceph("osd", "stat")["num_up_osds"] == 1)
        _until(base, lambda: any(pool["stats"]["max_avail"] for pool in made.ceph("df")["pools"]))
        made.rbd("pool", "init", POOL)
        yield made
    finally:
        for daemon in reversed(daemons):
            daemon.kill()
        for daemon in daemons:
            daemon.wait(10)
        shutil.rmtree(base, ignore_errors=True)


def _write(base: Path, fsid: str, monitor: str, keys: dict[str, str]) -> None:
    for name in ("mon", "osd", "mgr", "modules", "run"):
        (base / name).mkdir()
    entries = {name: _entry(name, key, _MAY[name]) for name, key in keys.items()}
    (base / "everyone").write_text("".join(entries.values()))
    for name, path in {"client.admin": "admin.keyring", "osd.0": "osd/keyring", "mgr.x": "mgr/keyring"}.items():
        (base / path).write_text(entries[name])
    sections = {
        "global": {
            "fsid": fsid,
            "mon host": monitor,
            "public addr": "127.0.0.1",
            "cluster addr": "127.0.0.1",
            **{f"auth {kind} required": "cephx" for kind in ("cluster", "service", "client")},
            "run dir": str(base / "run"),
            "pid file": str(base / "run" / "$name.pid"),
            "admin socket": str(base / "run" / "$name.asok"),
            "crash dir": str(base / "run"),
            "log file": str(base / "run" / "$name.log"),
            "osd pool default size": "1",
            "osd pool default min size": "1",
            "osd crush chooseleaf type": "0",
            "mon allow pool size one": "true",
        },
        "mon": {"mon data": str(base / "mon"), "mon initial members": "a", "mon data avail crit": "0"},
        "osd": {
            "osd data": str(base / "osd"),
            "osd objectstore": "memstore",
            "memstore device bytes": str(_SIZE),
        },
        # Its modules take ten times the time and memory of all the rest, and there is nothing here for them to do.
        "mgr": {"mgr data": str(base / "mgr"), "mgr module path": str(base / "modules")},
        "client": {"keyring": str(base / "admin.keyring"), "admin socket": "", "log file": "/dev/null"},
    }
    lines = [
        line for name, values in sections.items() for line in (f"[{name}]", *(f"{k} = {v}" for k, v in values.items()))
    ]
    (base / "ceph.conf").write_text("\n".join(lines) + "\n")


def _entry(name: str, key: str, may: dict[str, str]) -> str:
    caps = "".join(f'\tcaps {kind} = "{what}"\n' for kind, what in may.items())
    return f"[{name}]\n\tkey = {key}\n{caps}"


def _new_key() -> str:
    """A key as Ceph writes them: type 1 (AES), when it was made, 16 bytes that nobody guesses."""
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


def _make(base: Path, program: str, *words: str) -> None:
    _tool(program, "--conf", str(base / "ceph.conf"), "--mkfs", *words)


def _tool(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def _start(base: Path, program: str, name: str) -> subprocess.Popen[bytes]:
    with (base / "run" / f"{program}.out").open("wb") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", program, "--conf", str(base / "ceph.conf"), "-i", name, "-f"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _until(base: Path, done: Any) -> None:
    patience = Patience(_START_TIMEOUT_S)
    while True:
        with suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if done():
                return
        if patience.is_over():
            said = "".join(path.read_text(errors="replace")[-1000:] for path in (base / "run").glob("*.out"))
            raise RuntimeError(f"the Ceph cluster did not start: {said}")
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])

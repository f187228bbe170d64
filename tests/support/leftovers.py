"""Count what a platform holds: processes, guards, leases, sockets, files, copies, control groups, rows.

Equal counts mean no leak.
"""

import contextlib
import os
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

from nacre.agent.settings import Settings
from support.patience import Patience
from support.platform import Platform

# What grows by design: history, logs, and the databases' own files.
HISTORY = {"events", "operations", "idempotency_answers", "alembic_version", "leases", "tokens", "sqlite_sequence"}
# What nodes say of themselves, some time after they have joined.
OF_NODES = {"pool_reports"}


def snapshot_of(cloud: Platform) -> dict[str, Any]:
    """Everything countable that belongs to machines of this platform."""
    return {
        "processes": len(cloud.guest_pids()),
        "guards": len(cloud.guard_pids()),
        "leases": leases(cloud),
        "files": files(cloud),
        "sockets": sockets(cloud),
        "cgroups": cgroups(cloud),
        "rows": rows(cloud),
        "descriptors": descriptors(cloud),
    }


def files(cloud: Platform) -> dict[str, int]:
    """Entries per top folder of each agent's data directory, image cache and caches of verdicts aside."""
    found: Counter[str] = Counter()
    for agent in sorted(cloud.root.glob("agent-*")):
        if not agent.is_dir():
            continue
        for path in agent.rglob("*"):
            top = path.relative_to(agent).parts[0]
            if top in {"vms", "copies"}:
                found[f"{agent.name}/{top}"] += 1
    return dict(found)


def sockets(cloud: Platform) -> int:
    """Listening unix sockets under the platform's directories, from the kernel's own table."""
    table = Path("/proc/net/unix").read_text().splitlines()
    names = [line.split()[-1] for line in table if "/" in line]
    return sum(any(mark in name for mark in ("qmp", "serial", "console")) and vm_of(cloud, name) for name in names)


def vm_of(cloud: Platform, name: str) -> bool:
    """Whether a socket path belongs to this platform (its run directory is derived from the data directory)."""
    return str(cloud.root) in name or any(run in name for run in run_directories(cloud))


def run_directories(cloud: Platform) -> list[str]:
    """The short socket directories of this platform's agents."""
    import hashlib

    return [hashlib.sha256(str(cloud.root / a.name).encode()).hexdigest()[:12] for a in cloud.agents]


def leases(cloud: Platform) -> int:
    """Leases of machines, which lie beside their sockets."""
    return sum(len(list((Settings().run_base / name).glob("*.lease"))) for name in run_directories(cloud))


def cgroups(cloud: Platform) -> int:
    """Control groups, in any hierarchy, of machines that this platform ever had: its events remember them."""
    known = set(machines(cloud))
    # Groups of other platforms come and go meanwhile, which os.walk minds as little as we do.
    return sum(name in known for _, folders, _ in os.walk("/sys/fs/cgroup") for name in folders)


def machines(cloud: Platform) -> list[str]:
    """Every machine that was ever created here."""
    found: list[str] = []
    after = 0
    while True:
        page = cloud.get("/v1/events", noun="vm", type="vm.created", after=after, limit=1000)["items"]
        if not page:
            return found
        found += [event["object_id"] for event in page]
        after = page[-1]["cursor"]


def rows(cloud: Platform) -> dict[str, int]:
    """Rows per table, history aside. Empty when the platform is not on SQLite."""
    database = next(iter((cloud.root / "control").glob("*.db")), None)
    if database is None:
        return {}
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {
            table: connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]
            for table in tables
            if table not in HISTORY | OF_NODES and not table.startswith("sqlite_")
        }


def difference(cloud: Platform, before: dict[str, Any]) -> dict[str, Any]:
    """What is there now and was not before, or the other way round. Empty when all is as it was."""
    now = snapshot_of(cloud)
    return {key: (before[key], now[key]) for key in before if before[key] != now[key]}


def assert_as_it_was(cloud: Platform, before: dict[str, Any], timeout: float = 30) -> None:
    """Wait until nothing differs from `before`; fail naming what does."""
    patience = Patience(timeout)
    while found := difference(cloud, before):
        assert not patience.is_over(), f"left over (before, now): {found}"
        time.sleep(0.1)


def descriptors(cloud: Platform) -> int:
    """Open files of the agents under vms/, which a forgotten machine would keep."""
    return sum("/vms/" in opened for agent in cloud.agents if agent.alive() for opened in open_files(agent.pid))


def open_files(pid: int) -> list[str]:
    """What a process has open. What it closes meanwhile is left out."""
    found: list[str] = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return found

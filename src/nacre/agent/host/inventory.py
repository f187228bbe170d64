"""What this host is and has: facts for the control plane, and what is in use now. Called through `agent/reporting`."""

import os
import platform
import shutil
import socket
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from nacre.agent.host import inventory_devices, inventory_processors
from nacre.lib import processes
from nacre.lib.clock import Clock
from nacre.model.nodes import Capacity, HypervisorInfo, Inventory, NodeFacts, Usage

REREAD_S = 60.0
"""What a host is made of seldom changes, and reading it costs some milliseconds."""


class HostInventory:
    """What this host is made of, read again now and then. Blocking."""

    def __init__(self, clock: Clock, root: Path = Path("/")) -> None:
        self._clock = clock
        self._root = root
        self._read_at = 0.0
        self._known: Inventory | None = None

    def current(self) -> Inventory:
        """Return the inventory, at most a minute old. What is equal has not changed."""
        now = self._clock.monotonic()
        if self._known is None or now - self._read_at >= REREAD_S:
            self._known, self._read_at = read(self._root), now
        return self._known


def read(root: Path, addresses: inventory_devices.Addresses | None = None) -> Inventory:
    """Read what a host is made of from its /proc and /sys under `root`; addresses are this host's unless given."""
    model, cores, threads = inventory_processors.processors(root)
    return Inventory(
        cpu_model=model,
        cpu_cores=cores,
        cpu_threads=threads,
        cpu_flags=inventory_processors.flags(root),
        numa=inventory_processors.numa(root),
        huge_pages=inventory_processors.huge_pages(root),
        disks=inventory_devices.disks(root),
        devices=inventory_devices.devices(root),
        nics=inventory_devices.nics(root, inventory_devices.addresses_here() if addresses is None else addresses),
    )


def facts(
    data: Path,
    hypervisors: Iterable[HypervisorInfo],
    *,
    labels: dict[str, str],
    region: str,
    zone: str,
    made_of: Inventory | None = None,
) -> NodeFacts:
    """Describe this host. What is equal has not changed."""
    system = platform.uname()
    return NodeFacts(
        hostname=socket.gethostname(),
        os=_os_name(),
        kernel=system.release,
        architecture=system.machine,
        agent_version=agent_version(),
        boot_id=processes.boot_id(),
        capacity=capacity(data),
        hypervisors=tuple(hypervisors),
        labels=labels,
        region=region,
        zone=zone,
        inventory=made_of,
    )


def capacity(data: Path) -> Capacity:
    """Say what this host has in all."""
    return Capacity(
        cpus=os.cpu_count() or 1,
        memory_bytes=psutil.virtual_memory().total,
        disk_bytes=shutil.disk_usage(data).total,
    )


def usage(data: Path) -> Usage:
    """Say what is in use on this host, by anyone."""
    memory = psutil.virtual_memory()
    return Usage(
        load1=round(os.getloadavg()[0], 2),
        memory_bytes=memory.total - memory.available,
        disk_bytes=shutil.disk_usage(data).used,
    )


def agent_version() -> str:
    """Return the version of Nacre that runs here."""
    try:
        return version("nacre")
    except PackageNotFoundError:  # run from a tree that is not installed
        return "unknown"


def host_kernel() -> Path | None:
    """Return a kernel of this host that can be read, preferably the one that runs."""
    candidates = [Path(f"/boot/vmlinuz-{platform.release()}"), *sorted(Path("/boot").glob("vmlinuz-*"), reverse=True)]
    return next((path for path in candidates if path.is_file() and os.access(path, os.R_OK)), None)


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return f"{platform.system()} {platform.release()}"

"""What this host is and has: facts for the control plane, and what is in use now. Called through `agent/reporting`."""

import os
import platform
import shutil
import socket
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from nacre.lib import processes
from nacre.model.nodes import Capacity, HypervisorInfo, NodeFacts, Usage


def facts(
    data: Path, hypervisors: Iterable[HypervisorInfo], *, labels: dict[str, str], region: str, zone: str
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
        capacity=Capacity(
            cpus=os.cpu_count() or 1,
            memory_bytes=psutil.virtual_memory().total,
            disk_bytes=shutil.disk_usage(data).total,
        ),
        hypervisors=tuple(hypervisors),
        labels=labels,
        region=region,
        zone=zone,
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

"""Which Cloud Hypervisor is installed. Called by `driver`."""

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nacre.agent.hypervisors.cloud_hypervisor import offer
from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass

_PROBE_S = 15.0
_INSTALL_HINT = "install Cloud Hypervisor on the node: its releases are single binaries; put one into the agent's PATH"


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What a binary said of itself."""

    path: str
    stamp: tuple[int, int]
    version: str


async def find(binary: str, known: Installed | None) -> Installed:
    """Ask the installed binary what it is, again only when the file is another than `known`. Raises DriverError."""
    path = shutil.which(binary)
    if path is None:
        raise unavailable("Cloud Hypervisor is not installed")
    stamp = _stamp(path)
    if known is not None and (known.path, known.stamp) == (path, stamp):
        return known
    return Installed(path=path, stamp=stamp, version=await _version(path))


def unavailable(message: str) -> DriverError:
    """Return the error for a Cloud Hypervisor that is not there, or not as it should be."""
    return DriverError("hypervisor_unavailable", message, hint=_INSTALL_HINT, failure_class=FailureClass.BLOCKED)


async def _version(path: str) -> str:
    ask = partial(subprocess.run, [path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_S)
    try:
        done = await asyncio.to_thread(ask)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise unavailable("the installed Cloud Hypervisor does not run") from error
    found = re.search(r"v?(\d+)\.(\d+)(\.\d+)?", done.stdout.decode(errors="replace"))
    if done.returncode or found is None:
        raise unavailable("the installed Cloud Hypervisor does not say its version")
    if why := offer.too_old((int(found.group(1)), int(found.group(2)))):
        raise unavailable(why)
    return found.group().removeprefix("v")


def _stamp(path: str) -> tuple[int, int]:
    facts = Path(path).stat()
    return facts.st_mtime_ns, facts.st_size

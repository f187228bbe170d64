"""The QEMU that is installed: what it says of itself. Called by `driver`."""

import asyncio
import json
import shutil
import subprocess
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nacre.agent.hypervisors.errors import DriverError
from nacre.model.convergence import FailureClass
from nacre.model.vms import MachineType

PROBE_S = 15.0
_INSTALL_HINT = "install QEMU on the node (Debian, Ubuntu: apt-get install qemu-system-x86; macOS: brew install qemu)"
_QUESTIONS = ("qmp_capabilities", "query-version", "query-machines", "quit")


@dataclass(frozen=True, kw_only=True)
class Installed:
    """What a QEMU binary said of itself."""

    path: str
    stamp: tuple[int, int]
    version: str
    machines: tuple[str, ...]
    sandbox: bool
    ceph: bool = False
    """Whether it reaches disks in Ceph."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version, to compare."""
        return tuple(int(part) for part in self.version.split("."))


async def find(binary: str, known: Installed | None) -> Installed:
    """Ask the installed QEMU what it is, again only when the file changed. Raises DriverError."""
    path = shutil.which(binary)
    if path is None:
        raise unavailable(f"{Path(binary).name} is not installed")
    stamp = _stamp(path)
    if known is None or (known.path, known.stamp) != (path, stamp):
        return await _interrogate(path, stamp)
    return known


def unavailable(message: str) -> DriverError:
    """Return the error for a QEMU that is not there or does not run."""
    return DriverError("hypervisor_unavailable", message, hint=_INSTALL_HINT, failure_class=FailureClass.BLOCKED)


async def _interrogate(path: str, stamp: tuple[int, int]) -> Installed:
    """Run QEMU without a machine and ask it. Without the sandbox if it is built without one."""
    sandbox = True
    text = await _answers(path, ["-sandbox", "on"])
    if text is None:
        sandbox = False
        text = await _answers(path, [])
    answers = [] if text is None else [json.loads(line) for line in text.splitlines() if line.startswith('{"return"')]
    if len(answers) < len(_QUESTIONS):
        raise unavailable("the installed QEMU does not run")
    numbers = answers[1]["return"]["qemu"]
    known = {name for machine in answers[2]["return"] for name in (machine["name"], machine.get("alias"))}
    return Installed(
        path=path,
        stamp=stamp,
        version=f"{numbers['major']}.{numbers['minor']}.{numbers['micro']}",
        machines=tuple(machine.value for machine in MachineType if machine.value in known),
        sandbox=sandbox,
        ceph=await _knows_ceph(path),
    )


async def _knows_ceph(path: str) -> bool:
    """Whether this QEMU reaches disks in Ceph: distributions have that in a package of its own."""
    image = "driver=rbd,node-name=probe,pool=none,image=none,conf=/nowhere"
    words = [path, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", "-blockdev", image]
    run = partial(subprocess.run, words, capture_output=True, text=True, timeout=PROBE_S)
    try:
        done = await asyncio.to_thread(run, errors="replace", stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode != 0 and "Unknown driver" not in done.stderr


async def _answers(path: str, options: list[str]) -> str | None:
    words = [path, "-nodefaults", "-no-user-config", "-display", "none", "-machine", "none", *options, "-qmp", "stdio"]
    questions = "".join(json.dumps({"execute": question}) + "\n" for question in _QUESTIONS)
    ask = partial(subprocess.run, words, input=questions, capture_output=True, text=True, timeout=PROBE_S)
    try:
        # In a thread: some programs do not read their input, and the event loops differ in how they take that.
        done = await asyncio.to_thread(ask, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _stamp(path: str) -> tuple[int, int]:
    facts = Path(path).stat()
    return facts.st_mtime_ns, facts.st_size

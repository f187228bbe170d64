"""Proofs that a hypervisor runs guests on this host, for those that run none without KVM. Called by drivers.

A device node that opens proves nothing: there are hosts where /dev/kvm creates machines that never run. So a kernel is
booted until it prints its first line, once per boot of the host, version of the hypervisor and identity of the device.
"""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nacre.lib import processes

FIRST_LINE = b"Linux version"

_FILE = "acceleration.json"
_CHUNK = 65536


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof showed. `key` names the circumstances; in any others it means nothing."""

    key: str
    reason: str = ""
    """Why no guests run; empty if they do."""


class Verdicts:
    """The verdict of this host, in one small file. What cannot be read counts as nothing known."""

    def __init__(self, directory: Path, device: Path) -> None:
        self._directory = directory
        self._device = device

    def find(self, version: str) -> Verdict | None:
        """Return the verdict for these very circumstances."""
        try:
            found = msgspec.json.decode((self._directory / _FILE).read_bytes(), type=Verdict)
        except (OSError, msgspec.DecodeError):
            return None
        return found if found.key == self._key(version) else None

    def save(self, version: str, reason: str) -> None:
        """Remember a verdict."""
        self._directory.mkdir(parents=True, exist_ok=True)
        draft = self._directory / f"{_FILE}.partial"
        draft.write_bytes(msgspec.json.encode(Verdict(key=self._key(version), reason=reason)))
        draft.replace(self._directory / _FILE)

    def _key(self, version: str) -> str:
        identity = "-"
        with contextlib.suppress(OSError):
            facts = self._device.stat()
            identity = f"{facts.st_rdev}.{facts.st_ino}.{facts.st_ctime_ns}"
        return f"{processes.boot_id()} {version} {identity}"


@dataclass(frozen=True)
class Outcome:
    """What became of a process that was to boot a kernel."""

    printed: bool
    """The kernel has printed its first line on the process's standard output."""
    status: int | None = None
    """How the process ended; None if it had to be ended."""


async def boot(words: Sequence[str], time_limit: float) -> Outcome:
    """Run a program until a kernel prints its first line, it ends, or time is up. Leaves nothing. Raises OSError."""
    process = await asyncio.create_subprocess_exec(
        *_leashed(words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = b""
    try:
        async with asyncio.timeout(time_limit):
            while FIRST_LINE not in seen:
                data = await process.stdout.read(_CHUNK)
                if not data:
                    return Outcome(printed=False, status=await process.wait())
                seen = seen[-len(FIRST_LINE) :] + data
            return Outcome(printed=True)
    except TimeoutError:
        return Outcome(printed=False)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _leashed(words: Sequence[str]) -> list[str]:
    """Tie the life of the proof to ours where the system can: unlike a guest it must not outlive the agent."""
    leash = shutil.which("setpriv")
    return [leash, "--pdeathsig", signal.SIGKILL.name.removeprefix("SIG"), "--", *words] if leash else list(words)

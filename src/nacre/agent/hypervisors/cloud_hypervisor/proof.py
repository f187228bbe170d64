"""The proof that KVM runs guests here, without which Cloud Hypervisor runs none. Called by `driver`.

A device node that opens proves nothing: there are hosts where /dev/kvm creates machines that never run. So a kernel is
booted until it prints its first line, once per boot of the host, version of Cloud Hypervisor and device.
"""

import asyncio
import contextlib
import shutil
import signal
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.cloud_hypervisor.api import without_paths
from nacre.lib import processes

TIME_LIMIT_S = 8.0
FIRST_LINE = b"Linux version"

_FILE = "acceleration.json"
_CHUNK = 65536
_OPTIONS = ("--cpus", "boot=1", "--memory", "size=128M", "--serial", "tty", "--console", "off", "--seccomp", "true")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What the proof showed. `key` names the circumstances; in any others it means nothing."""

    key: str
    reason: str = ""
    """Why KVM runs no guests; empty if it does."""


class Verdicts:
    """The verdict of this host, in one small file. What cannot be read counts as nothing known."""

    def __init__(self, directory: Path, kvm: Path) -> None:
        self._directory = directory
        self._kvm = kvm

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
            facts = self._kvm.stat()
            identity = f"{facts.st_rdev}.{facts.st_ino}.{facts.st_ctime_ns}"
        return f"{processes.boot_id()} {version} {identity}"


async def prove(binary: str, kernel: Path, time_limit: float = TIME_LIMIT_S) -> str:
    """Boot `kernel` until it prints its first line. Return an empty string if it did, else why not. Leaves nothing."""
    words = [binary, "--kernel", str(kernel), "--cmdline", "console=ttyS0 earlyprintk=ttyS0 panic=-1", *_OPTIONS]
    process = await asyncio.create_subprocess_exec(
        *_leashed(words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    seen = b""
    try:
        async with asyncio.timeout(time_limit):
            while FIRST_LINE not in seen:
                data = await process.stdout.read(_CHUNK)
                if not data:
                    said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
                    last = without_paths(said[-1]) if said else "no message"
                    return f"Cloud Hypervisor gave up before the kernel printed anything: {last}"
                seen = seen[-len(FIRST_LINE) :] + data
            return ""
    except TimeoutError:
        return f"no kernel printed its first line within {time_limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _leashed(words: list[str]) -> list[str]:
    """Tie the life of the proof to ours where the system can: unlike a guest it must not outlive the agent."""
    leash = shutil.which("setpriv")
    return [leash, "--pdeathsig", signal.SIGKILL.name.removeprefix("SIG"), "--", *words] if leash else words

"""Which accelerator a guest gets, and the proof that it works. Called by `driver`.

A device node that opens proves nothing: there are hosts where /dev/kvm creates machines that never run. So an
accelerator is trusted only after a kernel has printed its first line under it, once per boot of the host, version of
QEMU and device. Until then, and where it fails, guests run under TCG, and the reason is kept for people to see.
"""

import asyncio
import contextlib
import platform
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from nacre.agent.hypervisors.qemu import states
from nacre.agent.hypervisors.qemu.command_line import probe_words
from nacre.agent.hypervisors.qemu.command_line.surroundings import TCG
from nacre.lib import processes

TIME_LIMIT_S = 8.0
FIRST_LINE = b"Linux version"

_FILE = "acceleration.json"


@dataclass(frozen=True)
class Candidate:
    """An accelerator that this kind of host may have."""

    name: str
    device: Path | None


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a proof showed. `key` names the circumstances; in any others it means nothing."""

    key: str
    works: bool
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """What guests get, and why nothing faster."""

    accelerator: str
    reason: str = ""


def candidates() -> tuple[Candidate, ...]:
    """Name the accelerators for x86 guests on this kind of host, best first."""
    if platform.machine() not in {"x86_64", "AMD64"}:
        return ()
    match platform.system():
        case "Linux":
            return (Candidate("kvm", Path("/dev/kvm")),)
        case "Darwin":
            return (Candidate("hvf", None),)
        case _:
            return ()


def obstacle(candidate: Candidate) -> str:
    """Say why a candidate need not even be tried; empty if it may work."""
    if candidate.device is None:
        return ""
    try:
        with candidate.device.open("r+b", buffering=0):
            return ""
    except FileNotFoundError:
        return f"{candidate.name}: the node has no {candidate.device}"
    except PermissionError:
        return f"{candidate.name}: the agent may not open {candidate.device}; add its user to the device's group"
    except OSError as error:
        return f"{candidate.name}: {candidate.device} does not open: {error.strerror}"


def circumstances(candidate: Candidate, version: str) -> str:
    """Name what a verdict depends on: this boot of the host, QEMU's version, and the device's identity."""
    identity = "-"
    if candidate.device is not None:
        with contextlib.suppress(OSError):
            facts = candidate.device.stat()
            identity = f"{facts.st_rdev}.{facts.st_ino}.{facts.st_ctime_ns}"
    return f"{processes.boot_id()} {version} {identity}"


def choose(tried: Sequence[tuple[Candidate, str, Verdict | None]]) -> Choice:
    """Return the best proven accelerator. Takes (candidate, obstacle, valid verdict or None). Pure."""
    reasons: list[str] = []
    for candidate, why_not, verdict in tried:
        if why_not:
            reasons.append(why_not)
        elif verdict is None:
            reasons.append(f"{candidate.name}: not proven on this node yet")
        elif verdict.works:
            return Choice(candidate.name, "; ".join(reasons))
        else:
            reasons.append(f"{candidate.name}: {verdict.reason}")
    return Choice(TCG, "; ".join(reasons) or "no hardware acceleration for x86 guests on this kind of host")


class Verdicts:
    """The verdicts of this host, in one small file. What cannot be read counts as nothing known."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def find(self, candidate: Candidate, version: str) -> Verdict | None:
        """Return the verdict for these very circumstances."""
        verdict = self._load().get(candidate.name)
        return verdict if verdict is not None and verdict.key == circumstances(candidate, version) else None

    def save(self, candidate: Candidate, version: str, *, works: bool, reason: str = "") -> None:
        """Remember a verdict."""
        verdict = Verdict(key=circumstances(candidate, version), works=works, reason=reason)
        self._directory.mkdir(parents=True, exist_ok=True)
        partial = self._directory / f"{_FILE}.partial"
        partial.write_bytes(msgspec.json.encode(self._load() | {candidate.name: verdict}))
        partial.replace(self._directory / _FILE)

    def _load(self) -> dict[str, Verdict]:
        try:
            return msgspec.json.decode((self._directory / _FILE).read_bytes(), type=dict[str, Verdict])
        except (OSError, msgspec.DecodeError):
            return {}


async def prove(binary: str, accelerator: str, kernel: Path, time_limit: float = TIME_LIMIT_S) -> str:
    """Boot `kernel` until it prints its first line. Return an empty string if it did, else why not. Leaves nothing."""
    words = _leashed(probe_words(binary, accelerator=accelerator, kernel=kernel))
    process = await asyncio.create_subprocess_exec(
        *words,
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
                data = await process.stdout.read(65536)
                if not data:
                    text = (await process.stderr.read()).decode(errors="replace")
                    return f"QEMU gave up before the kernel printed anything: {states.last_words(text) or 'no message'}"
                seen = seen[-len(FIRST_LINE) :] + data
            return ""
    except TimeoutError:
        return f"no kernel printed its first line within {time_limit:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


def _leashed(words: list[str]) -> list[str]:
    """Tie the probe's life to ours where the system can: unlike a guest it must not outlive the agent."""
    leash = shutil.which("setpriv")
    return [leash, "--pdeathsig", signal.SIGKILL.name.removeprefix("SIG"), "--", *words] if leash else words

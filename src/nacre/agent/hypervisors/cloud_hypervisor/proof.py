"""The proof that Cloud Hypervisor runs guests here: a kernel that prints its first line. Called by `driver`."""

from pathlib import Path

from nacre.agent.hypervisors import proofs

TIME_LIMIT_S = 8.0

_OPTIONS = ("--cpus", "boot=1", "--memory", "size=128M", "--serial", "tty", "--console", "off", "--seccomp", "true")


async def prove(binary: str, kernel: Path, time_limit: float = TIME_LIMIT_S) -> str:
    """Boot `kernel` until it prints its first line. Return an empty string if it did, else why not. Raises OSError."""
    words = [binary, "--kernel", str(kernel), "--cmdline", "console=ttyS0 earlyprintk=ttyS0 panic=-1", *_OPTIONS]
    outcome = await proofs.boot(words, time_limit)
    if outcome.printed:
        return ""
    if outcome.status is None:
        return f"no kernel printed its first line within {time_limit:.0f} s"
    return f"Cloud Hypervisor gave up before the kernel printed anything: it exited with status {outcome.status}"

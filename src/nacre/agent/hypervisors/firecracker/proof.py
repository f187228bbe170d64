"""The proof that Firecracker runs guests here: a kernel that prints its first line. Called by `driver`."""

import json
import tempfile
from pathlib import Path

from nacre.agent.hypervisors import proofs
from nacre.agent.hypervisors.firecracker import refusals
from nacre.lib.threads import in_thread

TIME_LIMIT_S = 8.0

_ARGUMENTS = "console=ttyS0 earlyprintk=ttyS0 panic=-1 reboot=k"


def configuration(kernel: Path) -> bytes:
    """Return what a machine is that does nothing but boot. Pure."""
    return json.dumps(
        {
            "boot-source": {"kernel_image_path": str(kernel), "boot_args": _ARGUMENTS},
            "machine-config": {"vcpu_count": 1, "mem_size_mib": 128},
            "drives": [],
        }
    ).encode()


async def prove(binary: str, kernel: Path, time_limit: float = TIME_LIMIT_S) -> str:
    """Boot `kernel` until it prints its first line. Return an empty string if it did, else why not. Raises OSError."""
    with tempfile.NamedTemporaryFile(prefix="nacre-proof-") as file:
        await in_thread(_write, Path(file.name), configuration(kernel))
        outcome = await proofs.boot([binary, "--no-api", "--config-file", file.name], time_limit)
    if outcome.printed:
        return ""
    if outcome.status is None:
        return f"no kernel printed its first line within {time_limit:.0f} s"
    why = refusals.end(outcome.status) or f"it exited with status {outcome.status}"
    return f"Firecracker gave up before the kernel printed anything: {why}"


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)

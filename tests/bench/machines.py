"""How much Nacre adds to QEMU, and how fast it sees a guest die."""

import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.results import Result
from support.guests import tiny_image
from support.platform import Platform, eventually, platform

ROUNDS = 9


def create_to_first_line() -> Iterator[Result]:
    """Alternate: a machine through the API, and the same command line by hand."""
    ours: list[float] = []
    bare: list[float] = []
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        once_through_the_api(cloud, "warm-up")
        for index in range(ROUNDS):
            seconds, argv = once_through_the_api(cloud, f"round-{index}")
            ours.append(seconds)
            bare.append(once_by_hand(argv))
    yield Result(
        name="vm.create_to_first_line.ratio",
        value=statistics.median(ours) / statistics.median(bare),
        unit="x",
        better="lower",
        reference=f"at most 1.25 x bare QEMU ({statistics.median(bare):.2f} s)",
        samples=[mine / theirs for mine, theirs in zip(ours, bare, strict=True)],
        how="POST /v1/vms until the console log has a byte, over the same argv by hand; medians, alternating",
    )


def once_through_the_api(cloud: Platform, name: str) -> tuple[float, list[str]]:
    """Seconds from the request to the first byte of the console, and the command line that was used."""
    began = time.monotonic()
    vm = cloud.post("/v1/vms", {"name": name, "image": "tiny", "memory_bytes": 128 << 20})["resource"]
    log = eventually(
        lambda: next(iter(cloud.root.glob(f"agent-0/**/{vm['id']}/console.log")), None), what="a console log"
    )
    wait_for_bytes(log)
    seconds = time.monotonic() - began
    pid = next(pid for pid in cloud.guest_pids() if vm["id"].encode() in Path(f"/proc/{pid}/cmdline").read_bytes())
    argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    cloud.request("POST", f"/v1/vms/{name}/stop", json={"force": True}, params={"wait": 30})
    cloud.request("DELETE", f"/v1/vms/{name}", params={"wait": 30})
    return seconds, argv


def once_by_hand(argv: list[str]) -> float:
    """Seconds from starting the same QEMU to the first byte of its console."""
    with tempfile.TemporaryDirectory(prefix="nacre-bare-") as text:
        directory = Path(text)
        changed = [localised(word, directory) for word in argv]
        began = time.monotonic()
        process = subprocess.Popen(
            changed, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=directory
        )
        try:
            wait_for_bytes(directory / "console.log")
            return time.monotonic() - began
        finally:
            process.kill()
            process.wait()


def localised(word: str, directory: Path) -> str:
    """Point every file that the process writes into `directory`; kernel and initrd stay where they are."""
    parts: list[str] = []
    for part in word.split(","):
        key, _, value = part.rpartition("=")
        prefix = "unix:" if value.startswith("unix:") or part.startswith("unix:") else ""
        path = value.removeprefix("unix:") if key else part.removeprefix("unix:")
        if path.startswith("/") and Path(path).suffix in {".sock", ".log", ".pid"}:
            path = str(directory / Path(path).name)
            parts.append((f"{key}=" if key else "") + prefix + path)
        else:
            parts.append(part)
    return ",".join(parts)


def wait_for_bytes(path: Path, timeout: float = 60) -> None:
    """Return as soon as the file has content."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if path.exists() and path.stat().st_size > 0:
            return
        time.sleep(0.002)
    raise AssertionError(f"nothing was printed in {timeout} s")


def killed_guest_seen() -> Iterator[Result]:
    """SIGKILL a guest; time until the API shows that it is not running."""
    samples: list[float] = []
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        cloud.post(
            "/v1/vms", {"name": "victim", "image": "tiny", "memory_bytes": 128 << 20, "restart": "never"}, wait=60
        )
        for _ in range(ROUNDS):
            eventually(lambda: cloud.vm("victim")["phase"] == "running", what="running")
            (pid,) = cloud.guest_pids()
            began = time.monotonic()
            os.kill(pid, signal.SIGKILL)
            eventually(lambda: cloud.vm("victim")["phase"] != "running", what="seen")
            samples.append(time.monotonic() - began)
            cloud.post("/v1/vms/victim/start", wait=60)
    yield Result(
        name="vm.killed_guest_seen.s",
        value=statistics.median(samples),
        unit="s",
        better="lower",
        reference="at most 1 s",
        samples=samples,
        how="SIGKILL of the QEMU process until GET /v1/vms/{vm} shows another phase; median",
    )


BENCHES = {
    ("vm.create_to_first_line.ratio",): create_to_first_line,
    ("vm.killed_guest_seen.s",): killed_guest_seen,
}

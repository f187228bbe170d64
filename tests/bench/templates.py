"""Many machines from one template on one node, against as many bare QEMUs with the same command line.

NACRE_BENCH_MACHINES says how many, NACRE_BENCH_MACHINE_MIB how much memory each has.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.machines import localised
from bench.results import Result
from support.guests import tiny_image
from support.machines import READY
from support.platform import Platform, eventually, platform

COUNT = int(os.environ.get("NACRE_BENCH_MACHINES", "50"))
MEMORY = int(os.environ.get("NACRE_BENCH_MACHINE_MIB", "96")) << 20
PATIENCE_S = 3600.0
SETTLE_S = 5.0
_LOOK_S = 0.1
_ROOM = 2 << 30


def fifty() -> Iterator[Result]:
    """All of them in one request; then the same command lines by hand, all at once."""
    if available() < COUNT * (MEMORY + (128 << 20)) + _ROOM:
        raise RuntimeError(f"too little memory for {COUNT} machines: see NACRE_BENCH_MACHINES")
    with platform() as cloud:
        image = tiny_image()
        cloud.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        answer = cloud.request("PATCH", "/v1/scheduler", json={"cpu_overcommit": 64.0})
        assert answer.status_code == 200, answer.text
        cloud.post("/v1/templates", {"name": "small", "config": {"image": "tiny", "memory_bytes": MEMORY}})
        through_nacre(cloud, "warm-up-{n}", 1)
        ours_s, ours_mib, lines = through_nacre(cloud, "many-{n}", COUNT)
        bare_s, bare_mib = by_hand(lines)  # while the image is still there
    for unit, ours, bare, what in (
        ("s", ours_s, bare_s, "from the request until the last guest has booted and the API shows all running"),
        ("mib", ours_mib, bare_mib, "PSS of each machine, with what agent and control plane have grown by"),
    ):
        yield Result(
            name=f"vm.fifty_from_template.{unit}_ratio",
            value=ours / bare,
            unit="x",
            better="lower",
            reference=f"{COUNT} machines of {MEMORY >> 20} MiB: {ours:.1f} against {bare:.1f} {unit} bare",
            samples=[ours / bare],
            how=f"{what}, over the same command lines started side by side by hand; one request for {COUNT} machines",
        )


def through_nacre(cloud: Platform, name: str, count: int) -> tuple[float, float, list[list[str]]]:
    """Seconds until all run, MiB of each, and their command lines."""
    programs = [cloud.control.pid, *(agent.pid for agent in cloud.agents)]
    before = sum(pss_mib(pid) for pid in programs)
    began = time.monotonic()
    made = cloud.post("/v1/vms", {"name": name, "template": "small", "count": count})
    names = [one["resource"]["name"] for one in (made, *made.get("more", []))]
    vms = cloud.root / "agent-0" / "vms"
    until_booted(lambda: list(vms.glob("*/console.log")), count)
    eventually(
        lambda: all(cloud.vm(one)["phase"] == "running" for one in names), what="all running", timeout=PATIENCE_S
    )
    seconds = time.monotonic() - began
    time.sleep(SETTLE_S)
    guests = cloud.guest_pids()
    assert len(guests) == count, f"{len(guests)} processes"
    grown = sum(pss_mib(pid) for pid in programs) - before
    mib = (sum(pss_mib(pid) for pid in (*guests, *cloud.guard_pids())) + grown) / count
    lines = [Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0") for pid in guests]
    for one in names:
        cloud.request("POST", f"/v1/vms/{one}/stop", json={"force": True})
    for one in names:
        answer = cloud.request("DELETE", f"/v1/vms/{one}", params={"wait": 60}, timeout=120)
        assert answer.status_code < 300, answer.text
    eventually(lambda: not cloud.guest_pids(), what="nothing left", timeout=PATIENCE_S)
    return seconds, mib, lines


def by_hand(lines: Sequence[list[str]]) -> tuple[float, float]:
    """Seconds until all have booted, and MiB of each."""
    with tempfile.TemporaryDirectory(prefix="nacre-bare-") as text:
        folders = [Path(text) / str(number) for number in range(len(lines))]
        for folder in folders:
            folder.mkdir()
        processes: list[subprocess.Popen[bytes]] = []
        began = time.monotonic()
        try:
            for folder, words in zip(folders, lines, strict=True):
                here = [localised(word, folder) for word in words]
                with (folder / "said").open("wb") as said:
                    started = subprocess.Popen(here, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder)
                processes.append(started)

            def logs() -> list[Path]:
                ended = [folder for folder, one in zip(folders, processes, strict=True) if one.poll() is not None]
                assert not ended, (ended[0] / "said").read_text(errors="replace")
                return [folder / "console.log" for folder in folders]

            until_booted(logs, len(lines))
            seconds = time.monotonic() - began
            time.sleep(SETTLE_S)
            return seconds, sum(pss_mib(process.pid) for process in processes) / len(lines)
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()


def until_booted(logs: Callable[[], list[Path]], count: int) -> None:
    """Wait until so many guests have said on their consoles that they are ready."""
    deadline = time.monotonic() + PATIENCE_S
    booted: set[Path] = set()
    while len(booted) < count:
        assert time.monotonic() < deadline, f"{len(booted)} of {count} have booted"
        time.sleep(_LOOK_S)
        for log in logs():
            if log not in booted and log.exists() and READY.search(log.read_text(errors="replace")):
                booted.add(log)


def pss_mib(pid: int) -> float:
    """What a process holds of the memory, its share of what it holds with others."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss")


def available() -> int:
    """Memory that can still be had, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


BENCHES = {("vm.fifty_from_template.s_ratio", "vm.fifty_from_template.mib_ratio"): fifty}

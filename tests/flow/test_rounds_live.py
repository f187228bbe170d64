"""Two hundred rounds of snapshots, clones, growth and checkpoints of machines that run on leave nothing behind.

Real QEMU, and guests that count on their disks and look whether what they have written is still there. Left out of the
comparison: events and operations, which are history and grow by design, and idempotency answers, which expire.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support import counter
from support.leftovers import assert_as_it_was, open_files, snapshot_of
from support.platform import Platform, eventually, platform
from support.struck import prints, ticks

pytestmark = pytest.mark.host

ROUNDS, WARM_UP = 200, 12
LANES = ("left", "right")
MIB = 1 << 20
WAIT = 90
FEW_FILES = 6
"""Connections of pools and clients come and go; a file that was forgotten each time would be one per round."""
LITTLE_MIB = 12.0


@pytest.mark.timeout(900)
def test_two_hundred_rounds_on_machines_that_run_leave_nothing_behind(tmp_path: Path) -> None:
    with platform() as cloud:
        disk = tmp_path / "counter.raw"
        disk.write_bytes(counter.disk_image(2))
        cloud.import_image("counter", {"disk": disk})
        for lane in LANES:
            machine(cloud, lane)
        rounds(cloud, range(WARM_UP))
        lives = {lane: cloud.vm(lane)["run"]["id"] for lane in LANES}
        before, held = snapshot_of(cloud), measured(cloud)
        rounds(cloud, range(WARM_UP, WARM_UP + ROUNDS // 2))
        half = measured(cloud)
        rounds(cloud, range(WARM_UP + ROUNDS // 2, WARM_UP + ROUNDS))
        assert_as_it_was(cloud, before)
        after = measured(cloud)
        print(f"before {held}\nhalf   {half}\nafter  {after}")
        assert {lane: cloud.vm(lane)["run"]["id"] for lane in LANES} == lives
        for lane in LANES:
            printed = cloud.log(lane)
            assert prints(printed) == (1, False)
            eventually(lambda lane=lane, printed=printed: ticks(cloud.log(lane)) > ticks(printed), what=lane)
        for name, count in after["files"].items():
            assert count <= held["files"][name] + FEW_FILES, (name, held, after)
        for name, size in after["memory"].items():
            assert size <= half["memory"][name] + LITTLE_MIB, (name, held, half, after)
        assert after["data"] == held["data"]
        assert after["deleted"] == 0
        assert after["used"] <= held["used"] + len(LANES) * MIB
        assert cloud.get("/v1/operations", state="running")["items"] == []


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def machine(cloud: Platform, name: str) -> None:
    """A machine that counts on its disk and a volume."""
    body = {"name": name, "image": "counter", "memory_bytes": 64 * MIB, "disk_bytes": MIB, "start": False}
    cloud.post("/v1/vms", body, wait=WAIT)
    done(cloud.post("/v1/volumes", {"name": f"{name}-data", "size_bytes": MIB}, wait=WAIT))
    done(cloud.post(f"/v1/vms/{name}/volumes", {"volume": f"{name}-data"}, wait=WAIT))
    done(cloud.post(f"/v1/vms/{name}/start", wait=WAIT))
    eventually(lambda: ticks(cloud.log(name)) > 2, what=f"{name} counts")


def rounds(cloud: Platform, numbers: range) -> None:
    """Each machine has its own, one after the other; then all layers that nobody needs are merged."""

    def one_lane(lane: str) -> None:
        for number in list(numbers)[LANES.index(lane) :: len(LANES)]:
            one_round(cloud, lane, number)

    with ThreadPoolExecutor(len(LANES)) as pool:
        list(pool.map(one_lane, LANES))
    for folder in folders(cloud):
        eventually(lambda folder=folder: len(list(folder.glob("*.qcow2"))) <= 2, what=f"merged layers in {folder}")


def one_round(cloud: Platform, vm: str, number: int) -> None:
    volume, name = f"/v1/volumes/{vm}-data", f"round-{number}"
    match number // len(LANES) % 4:
        case 0:
            done(cloud.post(f"{volume}/snapshots", {"name": name}, wait=WAIT))
            done(cloud.delete(f"{volume}/snapshots/{name}", wait=WAIT))
        case 1:
            done(cloud.post(f"{volume}/clone", {"name": f"{vm}-{name}"}, wait=WAIT))
            done(cloud.delete(f"/v1/volumes/{vm}-{name}", wait=WAIT))
        case 2:
            size = cloud.get(volume)["size_bytes"] + MIB
            done(cloud.request("PATCH", volume, json={"size_bytes": size}, params={"wait": WAIT}).json())
        case _:
            memory = number // len(LANES) % 8 == 7
            done(cloud.post(f"/v1/vms/{vm}/checkpoints", {"name": name, "memory": memory}, wait=WAIT))
            done(cloud.delete(f"/v1/vms/{vm}/checkpoints/{name}", wait=WAIT))


def folders(cloud: Platform) -> list[Path]:
    """Where disks have their layers."""
    data = cloud.root / "agent-0"
    return [*data.glob("vms/*/root"), *data.glob("volumes/vol-*")]


def measured(cloud: Platform) -> dict[str, Any]:
    """What all rounds together must not let grow."""
    processes = {"agent": cloud.agent.pid, "control": cloud.control.pid}
    guests = {f"guest-{index}": pid for index, pid in enumerate(sorted(cloud.guest_pids()))}
    opened = {name: open_files(pid) for name, pid in (processes | guests).items()}
    data = cloud.root / "agent-0"
    kinds = ("vms", "volumes", "volume-records", "records", "copies", "run", "ceph", "jails")
    return {
        "files": {name: len(files) for name, files in opened.items()},
        "memory": {name: resident_mib(pid) for name, pid in processes.items()},
        "data": {kind: sum(1 for _ in (data / kind).rglob("*")) for kind in kinds if (data / kind).exists()},
        "deleted": sum(".qcow2 (deleted)" in file for files in opened.values() for file in files),
        "used": sum(path.stat().st_blocks * 512 for folder in folders(cloud) for path in folder.glob("*.qcow2")),
    }


def resident_mib(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024

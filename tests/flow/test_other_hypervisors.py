"""Machines under Firecracker and Cloud Hypervisor with all else real: only the two programs are stand-ins."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nacre.agent.hypervisors.firecracker.driver import KVM
from nacre.agent.storage.reflink import can_reflink
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually
from support.vmm import swagger, wire
from support.vmm.installed import install

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give machines users of their own"),
    pytest.mark.skipif(not KVM.exists(), reason=f"these hypervisors need {KVM}, which is not there"),
]

MIB = 1 << 20
WAIT = 90
MACHINE = {"image": "elf", "memory_bytes": 128 << 20, "nics": []}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    programs = install(root / "bin", firecracker="firecracker", jailer="jailer", cloud_hypervisor="cloud_hypervisor")
    for folder in (root, programs):
        folder.chmod(0o755)
    kernel = root / "vmlinux"
    kernel.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(4096))
    disk = root / "disk.qcow2"
    (root / "disk.raw").write_bytes(b"system".ljust(4 * MIB, b"\0"))
    subprocess.run(["qemu-img", "convert", "-q", "-c", "-f", "raw", "-O", "qcow2", root / "disk.raw", disk], check=True)
    trace = root / "trace"
    trace.touch()
    trace.chmod(0o666)
    running = Platform(
        root,
        agent_env={
            "NACRE_AGENT_CONFINE": "always",
            "NACRE_AGENT_HYPERVISORS": "qemu,firecracker,cloud-hypervisor",
            "NACRE_AGENT_FIRECRACKER_BINARY": str(programs / "firecracker"),
            "NACRE_AGENT_CLOUD_HYPERVISOR_BINARY": str(programs / "cloud-hypervisor"),
            "NACRE_AGENT_JAILER_BINARY": str(programs / "jailer"),
            wire.TRACE: str(trace),
        },
    )
    try:
        running.start()
        # The stand-in of the jailer cannot change its root, so what it becomes goes through the agent's folder.
        (root / "agent-0").chmod(0o711)
        running.import_image("elf", {"kernel": kernel})
        running.import_image("system", {"kernel": kernel, "disk": disk})
        yield running
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)


def process_of(cloud: Platform, vm: str) -> Path:
    """Where the kernel tells of the process of a machine."""
    record = json.loads((cloud.root / "agent-0/records" / f"{vm}.json").read_text())
    return Path("/proc") / str(record["run"]["handle"]["pid"])


@pytest.mark.parametrize("ha", ["none", "restart"])
def test_a_machine_is_in_its_jail_from_its_start_to_its_end(cloud: Platform, ha: str) -> None:
    before = snapshot_of(cloud)
    name = f"jailed-{ha}"
    accepted = cloud.post("/v1/vms", {"name": name, "ha": ha, "hypervisor": "firecracker", **MACHINE}, wait=60)
    assert accepted["operation"]["state"] == "succeeded", (accepted, cloud.agent.tail())
    vm = accepted["resource"]
    assert vm["run"]["confined"]
    assert vm["run"]["guarded"] is (ha == "restart")
    jail = cloud.root / "agent-0/jails/firecracker" / vm["id"]
    process = process_of(cloud, vm["id"])
    assert (process / "cwd").resolve() == jail / "root"
    (user,) = {line.split()[1] for line in (process / "status").read_text().splitlines() if line.startswith("Uid")}
    assert 900_000 < int(user) <= 965_535
    eventually(lambda: cloud.log(name), what="what its console prints")

    cloud.agent.kill()
    cloud.agent.start()
    eventually(lambda: cloud.vm(name)["conditions"]["converged"], what="the machine taken over")
    assert process_of(cloud, vm["id"]) == process
    cloud.post(f"/v1/vms/{name}/stop", {"force": True}, wait=60)
    assert not jail.exists()
    cloud.post(f"/v1/vms/{name}/start", wait=60)
    assert jail.exists()
    cloud.delete(f"/v1/vms/{name}", wait=60)
    assert not jail.exists()
    assert_as_it_was(cloud, before)


@pytest.mark.parametrize("ha", ["none", "restart"])
def test_cloud_hypervisor_has_a_user_and_a_disk(cloud: Platform, ha: str) -> None:
    before = snapshot_of(cloud)
    name = f"cloudy-{ha}"
    body = {"name": name, "ha": ha, "hypervisor": "cloud-hypervisor", "disk_bytes": 16 << 20, **MACHINE}
    accepted = cloud.post("/v1/vms", body, wait=60)
    assert accepted["operation"]["state"] == "succeeded", (accepted, cloud.agent.tail())
    vm = accepted["resource"]
    assert (vm["run"]["confined"], vm["run"]["guarded"]) == (True, ha == "restart")
    eventually(lambda: cloud.log(name), what="what its console prints")
    assert cloud.post(f"/v1/vms/{name}/pause", wait=60)["resource"]["phase"] == "paused"
    cloud.agent.kill()
    cloud.agent.start()
    eventually(lambda: cloud.vm(name)["conditions"]["converged"], what="the machine taken over")
    assert cloud.post(f"/v1/vms/{name}/resume", wait=60)["resource"]["phase"] == "running"
    disk = cloud.root / "agent-0/vms" / vm["id"] / "root.qcow2"
    assert 900_000 < disk.stat().st_uid <= 965_535
    cloud.delete(f"/v1/vms/{name}", wait=60)
    assert_as_it_was(cloud, before)


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def has_open(process: Path, file: Path) -> bool:
    """Whether a process has a file open, under whatever name."""
    wanted = file.stat()
    return any(
        (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)
        for found in (path.stat() for path in (process / "fd").iterdir() if path.exists())
    )


def written(cloud: Platform, volume: str) -> Path:
    """The file of a raw volume that is written."""
    folder = cloud.root / "agent-0/volumes" / cloud.get(f"/v1/volumes/{volume}")["id"]
    return folder / json.loads((folder / "volume.json").read_text())["active"]


def test_firecracker_has_raw_disks_that_grow_and_are_kept_and_cloned(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    (cloud.root / "trace").write_text("")  # what others have asked of Cloud Hypervisor is held to other words
    body = {**MACHINE, "name": "disky", "image": "system", "hypervisor": "firecracker", "disk_bytes": 16 * MIB}
    vm = done(cloud.post("/v1/vms", body, wait=WAIT))
    root = cloud.root / "agent-0/vms" / vm["id"] / "root.raw"
    assert (root.stat().st_size, root.read_bytes()[:6]) == (16 * MIB, b"system")
    assert has_open(process_of(cloud, vm["id"]), root)
    asked = [json.loads(line) for line in (cloud.root / "trace").read_text().splitlines()]
    (drive,) = [json.loads(one["body"]) for one in asked if one["path"] == "/drives/root"]
    assert (drive["is_root_device"], drive["is_read_only"]) == (True, False)

    done(cloud.post("/v1/volumes", {"name": "layered", "size_bytes": 8 * MIB}, wait=WAIT))
    refused = cloud.request("POST", "/v1/vms/disky/volumes", json={"volume": "layered"})
    assert (refused.status_code, refused.json()["code"], refused.json()["field"]) == (
        422,
        "capability_missing",
        "volume",
    )
    assert "--format raw" in refused.json()["hint"]
    cloud.delete("/v1/volumes/layered", wait=WAIT)

    done(cloud.post("/v1/volumes", {"name": "data", "size_bytes": 8 * MIB, "format": "raw"}, wait=WAIT))
    done(cloud.post("/v1/vms/disky/stop", {"force": True}, wait=WAIT))
    done(cloud.post("/v1/vms/disky/volumes", {"volume": "data"}, wait=WAIT))
    vm = done(cloud.post("/v1/vms/disky/start", wait=WAIT))
    assert vm["run"]["volumes"] == [cloud.get("/v1/volumes/data")["id"]]
    data = written(cloud, "data")
    assert has_open(process_of(cloud, vm["id"]), data)
    with data.open("r+b") as file:  # as its guest would
        file.write(b"early")

    grown = cloud.request("PATCH", "/v1/volumes/data", json={"size_bytes": 32 * MIB}, params={"wait": WAIT})
    assert done(grown.json())["actual_size_bytes"] == data.stat().st_size == 32 * MIB
    done(cloud.request("PATCH", "/v1/vms/disky", json={"disk_bytes": 24 * MIB}, params={"wait": WAIT}).json())
    eventually(lambda: root.stat().st_size == 24 * MIB, what="a larger disk")

    kept = cloud.post("/v1/volumes/data/snapshots", {"name": "kept"}, wait=5)
    if can_reflink(cloud.root):
        assert kept["operation"]["state"] == "succeeded"
    else:
        failure = eventually(lambda: cloud.get("/v1/volumes/data")["conditions"]["degraded"], what="the reason")
        assert failure["code"] == "live_copy_unsupported"
        assert "reflinks" in failure["message"]
    done(cloud.post("/v1/vms/disky/stop", {"force": True}, wait=WAIT))
    eventually(lambda: cloud.get("/v1/volumes/data")["conditions"]["converged"], what="the snapshot of a machine off")
    with data.open("r+b") as file:
        file.write(b"later")
    done(cloud.post("/v1/volumes/data/clone", {"name": "copy", "snapshot": "kept"}, wait=WAIT))
    done(cloud.post("/v1/volumes/data/clone", {"name": "layers", "full": True, "format": "qcow2"}, wait=WAIT))
    assert cloud.get("/v1/volumes/copy")["format"] == "raw"
    assert written(cloud, "copy").read_bytes()[:5] == b"early"
    assert written(cloud, "layers").suffix == ".qcow2"
    done(cloud.post("/v1/volumes/data/restore", {"snapshot": "kept"}, wait=WAIT))
    assert written(cloud, "data").read_bytes()[:5] == b"early"

    done(cloud.post("/v1/vms/disky/volumes", {"volume": "copy", "delete_with_vm": True}, wait=WAIT))
    vm = done(cloud.post("/v1/vms/disky/start", wait=WAIT))
    process = process_of(cloud, vm["id"])
    assert all(has_open(process, file) for file in (root, written(cloud, "data"), written(cloud, "copy")))
    assert root.stat().st_size == 24 * MIB
    if swagger.document() is not None:
        assert swagger.check_trace(cloud.root / "trace") > 10
    cloud.delete("/v1/vms/disky", wait=WAIT)
    cloud.delete("/v1/volumes/data/snapshots/kept", wait=WAIT)
    for name in ("data", "layers"):
        cloud.delete(f"/v1/volumes/{name}", wait=WAIT)
    eventually(lambda: not list((cloud.root / "agent-0/volumes").iterdir()), what="an empty pool")
    assert_as_it_was(cloud, before)


def test_cloud_hypervisor_has_disks_of_either_format(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    body = {**MACHINE, "name": "either", "image": "system", "hypervisor": "cloud-hypervisor", "disk_bytes": 16 * MIB}
    vm = done(cloud.post("/v1/vms", body, wait=WAIT))
    root = cloud.root / "agent-0/vms" / vm["id"] / "root.qcow2"
    assert has_open(process_of(cloud, vm["id"]), root)
    for form in ("raw", "qcow2"):
        done(cloud.post("/v1/volumes", {"name": form, "size_bytes": 8 * MIB, "format": form}, wait=WAIT))
        done(cloud.post("/v1/vms/either/volumes", {"volume": form}, wait=WAIT))
        assert has_open(process_of(cloud, vm["id"]), written(cloud, form))
    grown = cloud.request("PATCH", "/v1/volumes/raw", json={"size_bytes": 32 * MIB}, params={"wait": WAIT})
    assert done(grown.json())["actual_size_bytes"] == written(cloud, "raw").stat().st_size == 32 * MIB
    done(cloud.post("/v1/vms/either/stop", {"force": True}, wait=WAIT))
    done(cloud.post("/v1/vms/either/start", wait=WAIT))
    assert len(cloud.vm("either")["run"]["volumes"]) == 2
    cloud.delete("/v1/vms/either", wait=WAIT)
    for form in ("raw", "qcow2"):
        cloud.delete(f"/v1/volumes/{form}", wait=WAIT)
    eventually(lambda: not list((cloud.root / "agent-0/volumes").iterdir()), what="an empty pool")
    assert_as_it_was(cloud, before)


def test_without_a_jailer_nothing_starts_that_must_be_confined(cloud: Platform) -> None:
    jailer = cloud.root / "bin" / "jailer"
    jailer.rename(jailer.with_name("gone"))
    cloud.post("/v1/vms", {"name": "loose", "hypervisor": "firecracker", **MACHINE})
    failure = eventually(lambda: cloud.vm("loose")["conditions"]["degraded"], what="the reason")
    assert (failure["code"], failure["failure_class"]) == ("cannot_confine", "blocked")
    assert "jailer" in failure["message"]
    cloud.delete("/v1/vms/loose", wait=60)

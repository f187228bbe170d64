"""Machines under Firecracker and Cloud Hypervisor with all else real: only the two programs are stand-ins."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.agent.hypervisors.firecracker.driver import KVM
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually
from support.vmm.installed import install

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can give machines users of their own"),
    pytest.mark.skipif(not KVM.exists(), reason=f"these hypervisors need {KVM}, which is not there"),
]

MACHINE = {"image": "elf", "memory_bytes": 128 << 20, "nics": []}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    programs = install(root / "bin", firecracker="firecracker", jailer="jailer", cloud_hypervisor="cloud_hypervisor")
    for folder in (root, programs):
        folder.chmod(0o755)
    kernel = root / "vmlinux"
    kernel.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\x3e\x00" + bytes(4096))
    running = Platform(
        root,
        agent_env={
            "NACRE_AGENT_CONFINE": "always",
            "NACRE_AGENT_HYPERVISORS": "qemu,firecracker,cloud-hypervisor",
            "NACRE_AGENT_FIRECRACKER_BINARY": str(programs / "firecracker"),
            "NACRE_AGENT_CLOUD_HYPERVISOR_BINARY": str(programs / "cloud-hypervisor"),
            "NACRE_AGENT_JAILER_BINARY": str(programs / "jailer"),
        },
    )
    try:
        running.start()
        # The stand-in of the jailer cannot change its root, so what it becomes goes through the agent's folder.
        (root / "agent-0").chmod(0o711)
        running.import_image("elf", {"kernel": kernel})
        yield running
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)


def process_of(cloud: Platform, vm: str) -> Path:
    """Where the kernel tells of the process of a machine."""
    found = [
        path.parent
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if (words := path.read_bytes().split(b"\0"))
        and vm.encode() in b" ".join(words)
        and any(word.startswith(b"--api-sock") for word in words)
    ]
    (one,) = [path for path in found if b"guard.py" not in (path / "cmdline").read_bytes()]
    return one


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


def test_without_a_jailer_nothing_starts_that_must_be_confined(cloud: Platform) -> None:
    jailer = cloud.root / "bin" / "jailer"
    jailer.rename(jailer.with_name("gone"))
    cloud.post("/v1/vms", {"name": "loose", "hypervisor": "firecracker", **MACHINE})
    failure = eventually(lambda: cloud.vm("loose")["conditions"]["degraded"], what="the reason")
    assert (failure["code"], failure["failure_class"]) == ("cannot_confine", "blocked")
    assert "jailer" in failure["message"]
    cloud.delete("/v1/vms/loose", wait=60)

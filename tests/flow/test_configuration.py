"""A machine with everything: made over REST, seen in its guest, changed while it runs, gone without a trace."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.agent.hypervisors.qemu import firmware
from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, platform

pytestmark = pytest.mark.host
MIB = 1 << 20


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform() as running:
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running


def command_line(cloud: Platform) -> str:
    (pid,) = cloud.guest_pids()
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def test_a_machine_grows_and_is_limited_while_it_runs_and_says_what_must_wait(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    body = {
        "name": "grower",
        "image": "tiny",
        "cpus": 1,
        "memory_bytes": 256 * MIB,
        "disk_bytes": 64 * MIB,
        "cpu": {"max": 4, "topology": {"cores": 2, "packages": 2}},
        "memory": {"max_bytes": 512 * MIB, "balloon": {}},
        "root_disk": {"serial": "S1", "limits": {"operations": {"size": 1000}}},
        "devices": {"watchdog": "reset"},
    }
    made = cloud.post("/v1/vms", body, wait=90)["resource"]
    assert made["phase"] == "running"
    assert made["restart_required"] == []
    words = command_line(cloud)
    assert "maxcpus=4" in words
    assert "cores=2" in words
    assert "i6300esb" in words
    eventually(lambda: "NACRE-TINY ready" in cloud.log("grower"), what="a booted guest")
    (pid,) = cloud.guest_pids()

    change = {
        "cpus": 3,
        "memory_bytes": 384 * MIB,
        "disk_bytes": 96 * MIB,
        "memory": {"max_bytes": 512 * MIB, "balloon": {"reclaim_bytes": 32 * MIB}},
        "root_disk": {"serial": "S1", "limits": {"bandwidth": {"size": 10 * MIB}}},
        "devices": {},
    }
    changed = cloud.request("PATCH", "/v1/vms/grower", json=change, params={"wait": 60})
    assert changed.status_code == 200, changed.text
    vm = changed.json()["resource"]
    assert vm["conditions"]["converged"] is True
    assert vm["restart_required"] == ["devices.watchdog"]
    run = vm["run"]
    assert (run["cpus"], run["memory_bytes"], run["config"]["disk_bytes"]) == (3, 384 * MIB, 96 * MIB)
    assert run["config"]["memory"]["balloon"]["reclaim_bytes"] == 32 * MIB
    assert cloud.guest_pids() == [pid]

    cloud.agent.kill()  # what is in force is on record, so nothing is done again and nothing forgotten
    cloud.agent.start()
    cloud.request("PATCH", "/v1/vms/grower", json={"cpus": 4}, params={"wait": 60})
    assert eventually(lambda: (v := cloud.vm("grower"))["run"]["cpus"] == 4 and v, what="the fourth CPU")
    assert cloud.guest_pids() == [pid]

    cloud.post("/v1/vms/grower/stop", {"force": True}, wait=60)
    again = cloud.post("/v1/vms/grower/start", wait=90)["resource"]
    assert again["restart_required"] == []
    assert "i6300esb" not in command_line(cloud)
    cloud.delete("/v1/vms/grower", wait=60)
    assert_as_it_was(cloud, before)


def test_what_no_node_can_do_is_refused_with_the_field(cloud: Platform) -> None:
    nic = {"options": {"send_limits": {"bandwidth": {"size": MIB}}}}
    answer = cloud.request("POST", "/v1/vms", json={"name": "no", "image": "tiny", "nics": [nic]})
    assert answer.status_code == 422
    problem = answer.json()
    assert (problem["code"], problem["field"]) == ("capability_missing", "nics[0].options.send_limits")
    assert cloud.vm("no") is None


@pytest.mark.skipif(
    firmware.find(firmware.FOLDERS, secure_boot=False) is None, reason="no OVMF here (apt-get install ovmf)"
)
def test_a_machine_starts_by_uefi_and_keeps_its_variables(cloud: Platform) -> None:
    body = {"name": "modern", "image": "tiny", "memory_bytes": 256 * MIB, "boot": {"firmware": "uefi"}}
    vm = cloud.post("/v1/vms", body, wait=120)["resource"]
    assert vm["phase"] == "running"
    place = cloud.root / "agent-0" / "vms" / vm["id"]
    variables = place / "firmware-variables.fd"
    assert variables.stat().st_mode & 0o777 == 0o600
    eventually(lambda: "NACRE-TINY ready" in cloud.log("modern"), what="a guest booted by UEFI", timeout=240)
    cloud.delete("/v1/vms/modern", wait=60)
    assert not place.exists()

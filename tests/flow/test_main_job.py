"""The main job on real input: a Linux guest created through the API, booted by QEMU, seen, stopped, deleted, gone."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from support.guests import tiny_image
from support.leftovers import assert_as_it_was, snapshot_of
from support.platform import Platform, eventually, free_port, platform

pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    with platform() as running:
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running


def test_a_guest_is_created_reached_stopped_and_deleted_and_nothing_is_left(cloud: Platform) -> None:
    before = snapshot_of(cloud)
    port = free_port()
    body = {
        "name": "web",
        "image": "tiny",
        "memory_bytes": 128 << 20,
        "publish": [{"host_port": port, "guest_port": 80}],
    }
    accepted = cloud.post("/v1/vms", body, wait=60)
    assert accepted["operation"]["state"] == "succeeded"
    assert accepted["resource"]["phase"] == "running"
    assert accepted["resource"]["conditions"]["converged"] is True
    page = eventually(lambda: httpx2.get(f"http://127.0.0.1:{port}/", timeout=2).text, what="a page from the guest")
    assert "hello" in page.lower()
    eventually(lambda: "NACRE-TINY ready" in cloud.log("web"), what="its last word of the boot")
    run = cloud.vm("web")["run"]
    assert run["accelerator"] in {"kvm", "hvf", "tcg"}
    assert run["accelerator"] != "tcg" or run["accelerator_reason"]

    stopped = cloud.post("/v1/vms/web/stop", wait=60)["resource"]
    assert stopped["phase"] == "stopped"
    assert stopped["run"]["exit_reason"] == "stopped"
    cloud.delete("/v1/vms/web", wait=60)
    assert cloud.vm("web") is None
    assert_as_it_was(cloud, before)

    types = [event["type"] for event in cloud.get("/v1/events", noun="vm")["items"]]
    assert {"vm.created", "vm.started", "vm.stopped", "vm.deleted"} <= set(types)


def test_a_used_port_is_refused_with_its_holder_and_nothing_changes(cloud: Platform) -> None:
    port = free_port()
    publish = [{"host_port": port, "guest_port": 80}]
    cloud.post("/v1/vms", {"name": "holder", "image": "tiny", "publish": publish, "start": False}, wait=30)
    answer = cloud.request("POST", "/v1/vms", json={"name": "late", "image": "tiny", "publish": publish})
    assert answer.status_code == 409
    problem = answer.json()
    assert "holder" in problem["detail"] + problem["hint"]
    assert cloud.vm("late") is None
    cloud.delete("/v1/vms/holder", wait=30)


def test_a_guest_that_powers_itself_off_is_seen_within_a_second_and_stays_off(cloud: Platform) -> None:
    cloud.post("/v1/vms", {"name": "tired", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
    eventually(lambda: "NACRE-TINY ready" in cloud.log("tired"), what="a booted guest")
    (pid,) = cloud.guest_pids()
    power_button(cloud, "tired")
    gone = eventually(lambda: not cloud.guest_pids() and time.monotonic(), what="the process gone")
    seen = eventually(lambda: cloud.vm("tired")["phase"] == "stopped" and time.monotonic(), what="seen stopped")
    assert seen - gone < 1.0
    vm = eventually(lambda: (v := cloud.vm("tired"))["desired"] == "stopped" and v, what="intent follows the guest")
    assert vm["run"]["exit_reason"] == "guest-shutdown"
    assert pid not in cloud.guest_pids()
    cloud.delete("/v1/vms/tired", wait=30)


def power_button(cloud: Platform, name: str) -> None:
    """Type `poweroff` on the guest's console, as a person would."""
    from websockets.sync.client import connect

    url = cloud.url.replace("http", "ws") + f"/v1/vms/{name}/console"
    with connect(url, additional_headers={"Authorization": f"Bearer {cloud.token}"}) as console:
        console.send(b"\n")
        console.send(b"poweroff -f\n")
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and cloud.guest_pids():
            time.sleep(0.02)


def test_pause_resume_reset_and_reboot_do_what_they_say(cloud: Platform) -> None:
    cloud.post("/v1/vms", {"name": "lively", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
    eventually(lambda: "NACRE-TINY ready" in cloud.log("lively"), what="a booted guest")
    assert cloud.post("/v1/vms/lively/pause", wait=30)["resource"]["phase"] == "paused"
    assert cloud.post("/v1/vms/lively/resume", wait=30)["resource"]["phase"] == "running"
    pids = cloud.guest_pids()
    cloud.post("/v1/vms/lively/reset", wait=30)
    eventually(lambda: boots(cloud, "lively") == 2, what="a second boot after reset")
    assert cloud.guest_pids() == pids
    cloud.post("/v1/vms/lively/reboot", wait=60)
    eventually(lambda: boots(cloud, "lively") == 3, what="a third boot after reboot")
    cloud.delete("/v1/vms/lively", wait=60)


def boots(cloud: Platform, name: str) -> int:
    return len(re.findall("NACRE-TINY ready", cloud.log(name)))


def test_a_crashed_guest_is_started_again_even_while_the_control_plane_is_away(cloud: Platform) -> None:
    cloud.post("/v1/vms", {"name": "hardy", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
    (pid,) = cloud.guest_pids()
    cloud.control.kill()
    kill(pid)
    (again,) = eventually(lambda: [p for p in cloud.guest_pids() if p != pid], what="a healed guest")
    cloud.control.start()
    vm = eventually(lambda: (v := cloud.vm("hardy"))["phase"] == "running" and v["run"]["exited_at"] is None and v)
    assert cloud.guest_pids() == [again]
    assert vm["desired"] == "running"
    cloud.delete("/v1/vms/hardy", wait=60)


def kill(pid: int) -> None:
    import os

    os.kill(pid, signal.SIGKILL)


def test_the_agent_leaves_on_sigterm_at_once_and_its_guests_stay(cloud: Platform) -> None:
    cloud.post("/v1/vms", {"name": "stays", "image": "tiny", "memory_bytes": 128 << 20}, wait=60)
    (pid,) = cloud.guest_pids()
    assert cloud.agent.terminate() < 5
    assert cloud.control.terminate() < 10
    assert cloud.guest_pids() == [pid]
    cloud.control.start()
    cloud.agent.start()
    eventually(lambda: cloud.vm("stays")["phase"] == "running", what="adopted")
    assert cloud.guest_pids() == [pid]
    cloud.delete("/v1/vms/stays", wait=60)


def test_the_command_line_leaves_nothing_of_an_import_that_was_refused(cloud: Platform, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("this is not a disk\n" * 100)
    ran = nacre(cloud, "image", "import", "broken", str(text))
    assert ran.returncode == 2
    assert "not a disk image" in ran.stderr
    assert "hint:" in ran.stderr
    names = [image["name"] for image in cloud.get("/v1/images")["items"]]
    assert "broken" not in names


def test_the_command_line_says_what_a_machine_waits_for(cloud: Platform) -> None:
    ran = nacre(cloud, "vm", "create", "huge", "--image", "tiny", "--memory", "2TiB", "--wait", "--timeout", "3s")
    assert ran.returncode == 6
    assert "waits: the only node cannot take it: needs 2TiB of memory" in ran.stderr
    assert nacre(cloud, "vm", "delete", "huge", "--yes", "--wait").returncode == 0


def test_the_labels_of_a_node_are_changed_from_the_command_line(cloud: Platform) -> None:
    assert nacre(cloud, "node", "update", "node-0", "--label", "rack=a1", "--label", "disk=ssd").returncode == 0
    assert nacre(cloud, "node", "update", "node-0", "--label", "disk-").returncode == 0
    (node,) = cloud.get("/v1/nodes", label="rack=a1")["items"]
    assert node["labels"] == {"rack": "a1"}
    refused = nacre(cloud, "node", "update", "node-0")
    assert refused.returncode == 2
    assert "hint:" in refused.stderr


def nacre(cloud: Platform, *words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "NACRE_URL": cloud.url, "NACRE_TOKEN": cloud.token, "NACRE_CONFIG": str(cloud.root / "none")}
    return subprocess.run(
        [sys.executable, "-m", "nacre.cli.main", *words], env=env, capture_output=True, text=True, timeout=60
    )

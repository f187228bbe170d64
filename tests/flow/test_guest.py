"""The inside of a real guest: Debian with cloud-init and the QEMU guest agent, through API and command line.

One boot serves all tests of this file, which are in the order in which a user would do things; the last shuts it down.
"""

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from support.debian import KERNEL_ARGS, debian, hindrance
from support.platform import Platform, eventually, platform

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.skipif(hindrance() != "", reason=hindrance() or "-"),
]

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPqpFjHsaSb8XSLyFxnmtyU9QHXHJu1nYqv3dE0aYRLT ann@home"
SECRET = "open-sesame-4711"
PASSWORD = "correct-horse-0815"
USER_DATA = f"""\
#cloud-config
write_files:
- path: /etc/from-user-data
  content: {SECRET}
runcmd:
- [sh, -c, "echo ran > /run/ran"]
"""
LEAVES = "DEBIAN leaves"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    image = debian()
    with platform() as running:
        files = {"kernel": image.kernel, "initrd": image.initrd, "disk": image.disk}
        running.import_image("debian", files, kernel_args=KERNEL_ARGS)
        body = {
            "name": "web",
            "image": "debian",
            "memory_bytes": 256 << 20,
            "cpus": 2,
            "devices": {"graphics": "vnc"},
            "cloud_init": {
                "hostname": "web-1",
                "user": "ann",
                "ssh_keys": [KEY],
                "password": PASSWORD,
                "user_data": USER_DATA,
                "meta_data": {"role": "frontend"},
            },
        }
        running.post("/v1/vms", body, wait=120)
        eventually(lambda: "DEBIAN ready" in running.log("web"), timeout=300, what="a guest that is set up")
        eventually(lambda: (running.vm("web")["guest"] or {}).get("hostname") == "web-1", timeout=60, what="its agent")
        yield running


def run(cloud: Platform, *command: str, **more: Any) -> Any:
    return cloud.post("/v1/vms/web/exec", {"command": list(command), **more})


def nacre(cloud: Platform, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "NACRE_URL": cloud.url, "NACRE_TOKEN": cloud.token, "HOME": str(cloud.root)}
    return subprocess.run(
        [sys.executable, "-m", "nacre.cli.main", *words],
        input=given,
        capture_output=True,
        check=False,
        env=environment,
        timeout=120,
    )


def test_cloud_init_has_set_the_guest_up_and_secrets_are_nowhere_but_in_it(cloud: Platform) -> None:
    assert run(cloud, "hostname")["stdout"] == "web-1\n"
    assert run(cloud, "cat", "/home/ann/.ssh/authorized_keys")["stdout"].strip() == KEY
    assert run(cloud, "cat", "/etc/from-user-data", "/run/ran")["stdout"] == f"{SECRET}ran\n"
    shadow = run(cloud, "getent", "shadow", "ann")["stdout"].split(":")[1]
    assert shadow.startswith("$6$rounds=")
    query = "import json; print(json.load(open('/run/cloud-init/instance-data.json'))['ds']['meta_data'])"
    meta = run(cloud, "python3", "-c", query)["stdout"]
    assert "'role': 'frontend'" in meta
    assert cloud.vm("web")["id"] in meta

    shown = cloud.vm("web")["spec"]["cloud_init"]
    assert set(shown["parts"]) == {"user_data", "meta_data", "hostname", "user", "ssh_keys", "password_hash"}
    told = json.dumps(cloud.get("/v1/events", limit=1000)) + json.dumps(cloud.get("/v1/vms"))
    files = [*cloud.root.glob("*.log"), *(cloud.root / "control").rglob("*.sqlite*")]
    stored = b"".join(path.read_bytes() for path in files)
    command_lines = b"".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in cloud.guest_pids())
    for secret in (SECRET, PASSWORD, shadow):
        assert secret not in told
        assert secret.encode() not in stored
        assert secret.encode() not in command_lines
    readable = [path for path in (cloud.root / "agent-0").rglob("seed.iso") if path.stat().st_mode & 0o077]
    assert readable == []


def test_what_the_guest_says_is_shown(cloud: Platform) -> None:
    guest = cloud.vm("web")["guest"]
    assert guest["answering"] is True
    assert guest["os"].startswith("Debian GNU/Linux 12")
    assert {"address": "10.0.2.15", "prefix": 24, "interface": "eth0", "nic": "nic0"}.items() <= next(
        one for one in guest["addresses"] if one["address"] == "10.0.2.15"
    ).items()
    assert b"10.0.2.15" in nacre(cloud, "vm", "list").stdout
    shown = nacre(cloud, "vm", "show", "web").stdout.decode()
    assert "web-1" in shown
    assert "10.0.2.15/24 on eth0" in shown


def test_commands_run_and_only_what_came_of_them_is_recorded(cloud: Platform) -> None:
    done = run(cloud, "sh", "-c", f"cat; echo no >&2; : {SECRET}; exit 3", stdin="what it reads")
    assert (done["state"], done["exit_code"], done["stdout"], done["stderr"]) == ("ended", 3, "what it reads", "no\n")
    again = cloud.get(f"/v1/vms/web/commands/{done['id']}")
    assert again == done
    assert SECRET not in json.dumps(again)
    event = next(one for one in reversed(cloud.get("/v1/events", type="vm.exec")["items"]))
    assert event["details"] == {"program": "sh"}
    cut = run(cloud, "seq", "100000", output_bytes=1000)
    assert (len(cut["stdout"]), cut["stdout_truncated"]) == (1000, True)
    killed = run(cloud, "sleep", "600", timeout_s=1)
    assert (killed["timed_out"], killed["exit_code"]) == (True, None)
    eventually(lambda: run(cloud, "pgrep", "-f", "^sleep 600")["stdout"] == "", what="it is killed")
    missing = run(cloud, "/no/such/program")
    assert (missing["state"], missing["code"], missing["exit_code"]) == ("failed", "guest_agent_refused", None)


def test_the_command_line_passes_input_outputs_and_the_exit_code_on(cloud: Platform) -> None:
    done = nacre(cloud, "vm", "exec", "web", "-i", "--", "sh", "-c", "cat; echo no >&2; exit 7", given=b"\0\xff in")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"\0\xff in", b"no\n")
    late = nacre(cloud, "vm", "exec", "web", "--timeout", "1s", "--", "sleep", "600")
    assert late.returncode == 6
    assert b"command_timeout" not in late.stdout


def test_its_screen_is_served_to_a_vnc_viewer(cloud: Platform) -> None:
    environment = {**os.environ, "NACRE_URL": cloud.url, "NACRE_TOKEN": cloud.token, "HOME": str(cloud.root)}
    words = [sys.executable, "-m", "nacre.cli.main", "vm", "display", "web"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as shown:
        assert shown.stdout is not None
        _, _, address = shown.stdout.readline().strip().rpartition("//")
        host, _, port = address.rpartition(":")
        try:
            for _viewer in range(2):
                with socket.create_connection((host, int(port)), timeout=30) as viewer:
                    width, height = rfb_handshake(viewer)
                    assert (width, height) > (100, 100)
                    # The whole screen, not only what has changed: the answer is a FramebufferUpdate (RFC 6143, 7.6.1).
                    viewer.sendall(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
                    kind, _padding, rectangles = struct.unpack(">BBH", exactly(viewer, 4))
                    assert kind == 0
                    assert rectangles >= 1
        finally:
            shown.terminate()


def rfb_handshake(viewer: socket.socket) -> tuple[int, int]:
    """Say hello as a VNC viewer does (RFC 6143, 7.1 to 7.3) and return the size of the screen."""
    assert exactly(viewer, 12) == b"RFB 003.008\n"
    viewer.sendall(b"RFB 003.008\n")
    assert 1 in exactly(viewer, exactly(viewer, 1)[0])
    viewer.sendall(b"\x01")
    assert exactly(viewer, 4) == b"\0\0\0\0"
    viewer.sendall(b"\x01")
    width, height, _format, length = struct.unpack(">HH16sI", exactly(viewer, 24))
    exactly(viewer, length)
    return width, height


def exactly(viewer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = viewer.recv(count - len(data))
        assert more, "the screen hung up"
        data += more
    return data


def test_what_the_machine_uses_is_measured_shown_and_exported(cloud: Platform) -> None:
    points = eventually(
        lambda: [one for one in cloud.get("/v1/vms/web/metrics")["points"] if one["cpu_cores"] is not None],
        timeout=60,
        what="two samples",
    )
    assert points[-1]["memory_resident_bytes"] > 50 << 20
    assert 0 <= points[-1]["cpu_cores"] < 8
    assert points[-1]["disk_read_bytes_per_second"] is not None
    assert points[-1]["guest_memory_available_bytes"] > 10 << 20
    table = nacre(cloud, "vm", "top", "--once")
    assert b"web" in table.stdout, table.stderr
    with httpx2.stream(
        "GET", f"{cloud.url}/v1/vms/web/metrics/live", headers={"Authorization": f"Bearer {cloud.token}"}, timeout=60
    ) as live:
        line = next(line for line in live.iter_lines() if line.startswith("data: "))
    assert json.loads(line.removeprefix("data: "))["memory_resident_bytes"] > 50 << 20


def test_a_changed_seed_waits_for_a_restart_and_the_agent_shuts_the_guest_down(cloud: Platform) -> None:
    changed = cloud.request("PATCH", "/v1/vms/web", json={"cloud_init": {"hostname": "web-2"}})
    assert changed.status_code in {200, 202}, changed.text
    assert cloud.vm("web")["restart_required"] == ["cloud_init"]
    stopped = cloud.post("/v1/vms/web/stop", wait=60)["resource"]
    assert stopped["phase"] == "stopped"
    assert stopped["run"]["exit_reason"] == "stopped"
    assert stopped["guest"] is None
    # The guest's own way to power off ran, which its power button does not lead to here: nobody listens to that.
    assert LEAVES in cloud.log("web")
    away = cloud.request("POST", "/v1/vms/web/exec", json={"command": ["true"]})
    assert away.json()["code"] == "vm_not_running"

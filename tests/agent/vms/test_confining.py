"""Hypervisors as users of their own: what they may use, and nothing else. With real QEMU."""

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.agent.host import users
from nacre.agent.vms import confining
from nacre.lib import processes
from nacre.model.hardware import DeviceOptions
from nacre.model.vms import PublishedPort
from support.guests import tiny_image
from support.machines import Bench
from support.platform import Platform, eventually

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(
        users.obstacle(Path("/run/nacre")) != "", reason=users.obstacle(Path("/run/nacre")) or "users can be had here"
    ),
]

MACHINE = {"image": "tiny", "memory_bytes": 112 << 20, "disk_bytes": 32 << 20}


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    root.chmod(0o711)
    running = Platform(root, agent_env={"NACRE_AGENT_CONFINE": "always"})
    try:
        running.start()
        image = tiny_image()
        disk = root / "disk.raw"
        disk.write_bytes(bytes(510) + b"\x55\xaa" + bytes((16 << 20) - 512))
        files = {"kernel": image.kernel, "initrd": image.initrd, "disk": disk}
        running.import_image("tiny", files, kernel_args=image.kernel_args)
        yield running
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)


def status(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def running(cloud: Platform, name: str) -> int:
    """The process of a machine whose guest has booted."""
    try:
        vm = eventually(lambda: (now := cloud.vm(name))["phase"] == "running" and now, what=f"{name} runs")
    except AssertionError as error:
        error.add_note(f"{cloud.vm(name)['conditions']}\n{cloud.agent.tail()}")
        raise
    eventually(lambda: "ip=" in cloud.log(name), what=f"{name} has booted")
    assert vm["run"]["confined"]
    (pid,) = [pid for pid in cloud.guest_pids() if vm["id"].encode() in Path(f"/proc/{pid}/cmdline").read_bytes()]
    return pid


def owners(cloud: Platform, name: str) -> dict[str, int]:
    place = cloud.root / "agent-0/vms" / cloud.vm(name)["id"]
    return {path.name: path.stat().st_uid for path in (place, *place.iterdir())}


@pytest.mark.parametrize("ha", ["none", "restart"])
def test_a_machine_has_a_user_of_its_own_for_all_of_its_life(cloud: Platform, ha: str) -> None:
    name = f"alone-{ha}"
    cloud.post("/v1/vms", {"name": name, "ha": ha, **MACHINE}, wait=60)
    pid = running(cloud, name)
    seen = status(pid)
    (user,) = set(seen["Uid"])
    assert 900_000 < int(user) <= 965_535
    assert set(seen["Gid"]) == {user}
    assert "0" not in seen["Groups"]
    assert seen["NoNewPrivs"] == ["1"]
    assert seen["Seccomp"] == ["2"]
    assert seen["CapEff"] == ["0000000000000000"]
    found = owners(cloud, name)
    assert {found["root.qcow2"], found["console.log"]} == {int(user)}
    assert {found[name] for name in found if name.startswith("vm-")} == {0}

    cloud.post(f"/v1/vms/{name}/stop", {"force": True}, wait=60)
    cloud.post(f"/v1/vms/{name}/start", wait=60)
    assert status(running(cloud, name))["Uid"][0] == user
    cloud.delete(f"/v1/vms/{name}", wait=60)
    assert cloud.vm(name) is None


def test_two_machines_cannot_touch_each_others_files(cloud: Platform) -> None:
    secret = {"user_data": "#!/bin/sh\n# open sesame\n"}
    for name in ("one", "two"):
        cloud.post("/v1/vms", {"name": name, "cloud_init": secret, **MACHINE}, wait=60)
    pids = {name: running(cloud, name) for name in ("one", "two")}
    users_of = {name: int(status(pid)["Uid"][0]) for name, pid in pids.items()}
    assert users_of["one"] != users_of["two"]
    place = cloud.root / "agent-0/vms" / cloud.vm("one")["id"]
    disk, seed = place / "root.qcow2", place / "seed.iso"
    identity = cloud.root / "agent-0/identity"
    for path in (disk, seed, identity):
        assert refused(path, users_of["two"])
    assert not refused(seed, users_of["one"])
    assert stat.S_IMODE(seed.stat().st_mode) == 0o600
    for name in ("one", "two"):
        cloud.delete(f"/v1/vms/{name}", wait=60)


def test_a_guarded_hypervisor_that_is_another_user_ends_with_its_guard(cloud: Platform) -> None:
    cloud.post("/v1/vms", {"name": "held", "ha": "restart", "restart": "never", **MACHINE}, wait=60)
    pid = running(cloud, "held")
    started = processes.start_time(pid)
    above = processes.parent(pid, started or 0)
    assert above is not None
    os.kill(above.pid, signal.SIGKILL)
    eventually(lambda: processes.start_time(pid) != started, what="the hypervisor has ended with its guard")
    cloud.delete("/v1/vms/held", wait=60)


def refused(path: Path, user: int) -> bool:
    """Whether a process of a user, with the groups that hypervisors have, cannot open a file."""
    child = os.fork()
    if child == 0:
        os.setgroups([900_000])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        try:
            os.close(os.open(path, os.O_RDONLY))
        except PermissionError:
            os._exit(13)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 13


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"port": 1024}, ""),
        ({"port": 443}, "ports below 1024: 443"),
        ({"rng": "closed"}, "random numbers"),
        ({"rng": "missing"}, ""),
    ],
)
def test_what_only_root_can_do_is_named(tmp_path: Path, changes: dict[str, object], why: str) -> None:
    first = tmp_path / "first"
    first.write_text("1024\n")
    (tmp_path / "closed").touch(mode=0o600)
    bench = Bench(root=tmp_path)
    port = changes.get("port")
    publish = (PublishedPort(host_port=port, guest_port=80),) if isinstance(port, int) else ()
    rng = str(tmp_path / str(changes["rng"])) if "rng" in changes else ""
    launch = bench.launch(publish=publish, devices=DeviceOptions(rng=rng))
    assert why in confining.needs_root(launch, first)
    assert bool(confining.needs_root(launch, first)) == bool(why)

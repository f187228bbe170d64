"""A volume in a real Ceph cluster: written by a guest, kept while that writes, put back, and on another node later.

Hypervisors run as users of their own here, so this also shows that they can read what they need, and no key is left.
"""

import json
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nacre.agent.host import users
from support import ceph, diary
from support.console import Console
from support.guests import tiny_image
from support.platform import Platform, eventually

_CONFINED = users.obstacle(Path("/run/nacre")) == ""

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not ceph.installed(), reason="Ceph is not installed: `scripts/setup.sh develop` does that"),
]

MIB = 1 << 20
WAIT = 120


@pytest.fixture(scope="module")
def cluster() -> Iterator[ceph.Cluster]:
    with ceph.cluster() as running:
        yield running


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    root = Path(tempfile.mkdtemp(prefix="nacre-"))
    root.chmod(0o711)
    running = Platform(root, agents=2, agent_env={"NACRE_AGENT_CONFINE": "always" if _CONFINED else "never"})
    try:
        running.start()
        image = tiny_image()
        running.import_image("tiny", {"kernel": image.kernel, "initrd": image.initrd}, kernel_args=image.kernel_args)
        yield running
    finally:
        running.stop()
        shutil.rmtree(root, ignore_errors=True)


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def volume(cloud: Platform, name: str) -> Any:
    return cloud.get(f"/v1/volumes/{name}")


def given(cluster: ceph.Cluster, **changes: Any) -> dict[str, Any]:
    access = cluster.access()
    where = {"monitors": list(access.monitors), "user": access.user, "key": access.key, **changes}
    return {"name": "rados", "kind": "ceph", "path": ceph.POOL, "ceph": where}


def files_with(root: Path, text: str) -> set[str]:
    """The names of the files in which a text stands."""
    found = subprocess.run(["grep", "-rlaF", text, str(root)], check=False, capture_output=True, text=True).stdout
    return {Path(line).name for line in found.splitlines()}


def test_a_volume_in_a_cluster_lives_and_follows_its_machine(cloud: Platform, cluster: ceph.Cluster) -> None:
    pool = cloud.post("/v1/pools", given(cluster))
    assert (pool["kind"], pool["shared"], pool["ceph"]) == (
        "ceph",
        True,
        {"monitors": list(cluster.access().monitors), "user": ceph.USER},
    )
    said = eventually(
        lambda: len(found := [one for one in cloud.get("/v1/pools/rados")["nodes"] if one["available"]]) == 2 and found,
        what=f"both nodes reach the pool: {cloud.get('/v1/pools/rados')['nodes']}",
    )
    assert said[0]["capabilities"]["shared"]
    assert 0 < said[0]["capacity_bytes"] <= 1 << 30

    done(cloud.post("/v1/vms", {"name": "writer", "image": "tiny", "memory_bytes": 112 * MIB}, wait=WAIT))
    eventually(lambda: "NACRE-TINY ready" in cloud.log("writer"), what="a booted guest")
    made = done(cloud.post("/v1/volumes", {"name": "data", "pool": "rados", "size_bytes": 16 * MIB}, wait=WAIT))
    vm = done(cloud.post("/v1/vms/writer/volumes", {"volume": "data"}, wait=WAIT))
    assert vm["run"]["volumes"] == [made["id"]]
    shell = Console(cloud, "writer")
    shell.until("cat /sys/block/vda/serial", made["id"][-20:])
    shell.run("echo before | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null")

    done(cloud.post("/v1/volumes/data/snapshots", {"name": "early"}, wait=WAIT))
    shell.run("echo after | dd of=/dev/vda bs=512 conv=notrunc,fsync 2>/dev/null")
    done(cloud.post("/v1/volumes/data/clone", {"name": "copy"}, wait=WAIT))
    answer = cloud.request("PATCH", "/v1/volumes/data", json={"size_bytes": 32 * MIB}, params={"wait": WAIT})
    assert done(answer.json())["actual_size_bytes"] == 32 * MIB
    shell.until("cat /sys/block/vda/size", str(32 * MIB // 512))
    shell.close()

    done(cloud.delete("/v1/vms/writer/volumes/data", wait=WAIT))
    eventually(lambda: volume(cloud, "data")["vm"] is None, what="a free volume")
    done(cloud.post("/v1/volumes/data/restore", {"snapshot": "early"}, wait=WAIT))
    assert volume(cloud, "data")["actual_size_bytes"] == 32 * MIB  # a restore goes to the old size, and it grows again

    # There from the start of a machine as well, and on the other node.
    done(cloud.post("/v1/vms/writer/volumes", {"volume": "data"}, wait=WAIT))
    home = cloud.vm("writer")["node"]["name"]
    (other,) = {"node-0", "node-1"} - {home}
    move = cloud.post("/v1/vms/writer/move", {"to": other})
    move = eventually(lambda: (now := cloud.get(f"/v1/moves/{move['id']}"))["ended_at"] and now, what="moved")
    assert move["state"] == "done", move
    eventually(lambda: cloud.vm("writer")["phase"] == "running", timeout=WAIT, what="it runs on the other node")
    assert cloud.vm("writer")["node"]["name"] == volume(cloud, "data")["node"]["name"] == other
    shell = Console(cloud, "writer")
    shell.until("head -c 6 /dev/vda", "before")
    check_keys(cloud, cluster)
    goes_back_while_it_writes(cloud, shell, home)
    check_keys(cloud, cluster)
    shell = Console(cloud, "writer")
    done(cloud.delete("/v1/vms/writer/volumes/data", wait=WAIT))
    done(cloud.post("/v1/vms/writer/volumes", {"volume": "copy"}, wait=WAIT))
    shell.until("head -c 6 /dev/vd?", "after")
    shell.close()

    cloud.delete("/v1/vms/writer", wait=WAIT)
    done(cloud.delete("/v1/volumes/data/snapshots/early", wait=WAIT))
    for name in ("data", "copy"):
        done(cloud.delete(f"/v1/volumes/{name}", wait=WAIT))
    assert cluster.images() == ([], [])
    assert cloud.request("DELETE", "/v1/pools/rados").status_code == 204
    for index in range(2):
        folder = cloud.root / f"agent-{index}" / "ceph"
        eventually(lambda folder=folder: not list(folder.iterdir()), what="no keys of pools that are gone")


def goes_back_while_it_writes(cloud: Platform, shell: Console, home: str) -> None:
    """The machine moves while it runs: the same guest goes on with the same volume, and soon."""
    shell.run("dd if=/dev/vda bs=512 count=1 of=/tmp/first 2>/dev/null")
    shell.run(f"disk=/dev/vda; ({diary.KEEP}) >/dev/null 2>&1 & true")
    shell.until("test -s /tmp/diary && echo be''gun", "begun")
    shell.close()
    before = cloud.vm("writer")["run"]["volumes"]
    move = cloud.post("/v1/vms/writer/move", {"to": home, "method": "live"})
    move = eventually(
        lambda: (now := cloud.get(f"/v1/moves/{move['id']}"))["ended_at"] and now, timeout=WAIT, what="moved"
    )
    assert (move["state"], move["way"]) == ("done", "live"), move
    assert cloud.vm("writer")["node"]["name"] == volume(cloud, "data")["node"]["name"] == home
    assert cloud.vm("writer")["run"]["volumes"] == before
    there = Console(cloud, "writer")
    known = diary.reached(there)
    there.until(f"test $(cat /tmp/diary) -gt {known + 10} && echo mo''re", "more")
    there.run("touch /tmp/enough; sleep 1; sync; echo 3 >/proc/sys/vm/drop_caches")
    assert "same" in there.run("dd if=/dev/vda bs=512 count=1 2>/dev/null | cmp - /tmp/first && echo sa''me")
    there.close()


def check_keys(cloud: Platform, cluster: ceph.Cluster) -> None:
    """A key is in the agents' files that are for it, sealed in the control plane, and nowhere else."""
    key = cluster.access().key
    assert files_with(cloud.root / "control", key) == set()
    assert all(key not in program.tail() for program in (*cloud.controls, *cloud.agents))
    assert key not in json.dumps([cloud.get("/v1/pools"), cloud.get("/v1/events", limit=1000)])
    for path in (path for index in range(2) for path in (cloud.root / f"agent-{index}" / "ceph").glob("*/*")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_uid == path.parent.stat().st_uid
    (pid,) = cloud.guest_pids()
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert not any(key in word for word in words)
    (secret,) = [json.loads(word) for word in words if '"qom-type": "secret"' in word]
    if _CONFINED:
        assert Path(f"/proc/{pid}").stat().st_uid >= 900_000
        assert not Path(secret["file"]).exists()


def test_a_key_that_the_cluster_does_not_know_is_said_to_be_refused(cloud: Platform, cluster: ceph.Cluster) -> None:
    access = cluster.access("nobody")
    body = given(cluster, user=access.user, key=access.key)
    cloud.post("/v1/pools", {**body, "name": "closed"})
    said = eventually(
        lambda: [one for one in cloud.get("/v1/pools/closed")["nodes"] if "refuses" in one["reason"]],
        what="a reason",
    )
    assert "ceph auth" in said[0]["hint"]
    assert cloud.request("DELETE", "/v1/pools/closed").status_code == 204

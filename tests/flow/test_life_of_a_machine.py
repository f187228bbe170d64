"""One Debian machine through everything that can happen to it, over the API, and a program in it that counts meanwhile.

Two real agents. The program holds its number in memory and says it ten times a second: whatever is done to the machine,
no number may be lost or said twice, except where the machine is put back in time.
"""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support.debian import DISK_MIB, KERNEL_ARGS, debian, hindrance
from support.platform import Platform, eventually, platform
from support.ticks import EVERY_S, PROGRAM, Listener, Tick, breaks, longest_gap_ms

pytestmark = [
    pytest.mark.host,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(hindrance() != "", reason=hindrance() or "-"),
]

MIB = 1 << 20
WAIT = 200
MACHINE = {
    "name": "web",
    "image": "debian",
    "cpus": 1,
    "cpu": {"max": 2},
    "memory_bytes": 256 * MIB,
    "memory": {"max_bytes": 512 * MIB},
    "cloud_init": {"hostname": "web"},
}
COUNT = "/run/count"
WRITER = "n=0; while [ -e /data/go ]; do n=$((n+1)); echo $n >>/data/numbers; sync -d /data/numbers; sleep 0.05; done"
"""Writes numbers to the volume, each of which is on it before the next."""
NUMBERS = itertools.count()
ONCE = """d=/run/said-$0
if mkdir $d 2>/dev/null; then
  sh -ec "$1" >$d/out 2>$d/errors; echo $? >$d/ending; mv $d/ending $d/end
else
  while ! test -e $d/end; do sleep 0.2; done
fi
cat $d/errors >&2; cat $d/out; exit $(cat $d/end)"""
FIND = 'for disk in /sys/block/vd*; do if [ "$(cat $disk/serial)" = {serial} ]; then echo /dev/${{disk##*/}}; fi; done'
ONLINE = """
for cpu in /sys/devices/system/cpu/cpu[1-9]; do if [ -e $cpu ]; then echo 1 >$cpu/online; fi; done
for block in /sys/devices/system/memory/memory*/state; do if grep -q offline $block; then echo online >$block; fi; done
nproc; sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo
"""
IDENTITY = "cat /etc/machine-id /proc/sys/kernel/hostname /sys/class/net/eth0/address /etc/ssh/ssh_host_ed25519_key.pub"


@pytest.fixture(scope="module")
def cloud() -> Iterator[Platform]:
    image = debian()
    with platform(agents=2) as running:
        running.root.chmod(0o711)  # or machines could not have users of their own, who must reach their files
        files = {"kernel": image.kernel, "initrd": image.initrd, "disk": image.disk}
        running.import_image("debian", files, kernel_args=KERNEL_ARGS)
        yield running


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


def done(accepted: Any) -> Any:
    operation = accepted["operation"]
    assert operation["state"] == "succeeded", operation
    return accepted["resource"]


def ready(cloud: Platform, vm: str) -> None:
    eventually(lambda: "DEBIAN ready" in cloud.log(vm), timeout=500, what="a guest that is set up")
    eventually(lambda: (cloud.vm(vm)["guest"] or {}).get("hostname") == vm, timeout=200, what="its agent")


def said(cloud: Platform, command: str, *, vm: str = "web", stdin: str = "") -> str:
    """What a command prints in a guest, where it is run once. It must succeed."""
    body = {"command": ["sh", "-c", ONCE, str(next(NUMBERS)), command], "stdin": stdin, "timeout_s": 120}
    # A guest that takes in a CPU under emulation may be busy with that for longer than its agent is waited for. Then
    # nobody knows whether the command was begun.
    answer = eventually(
        lambda: (found := cloud.request("POST", f"/v1/vms/{vm}/exec", json=body)).status_code != 503 and found,
        timeout=200,
        what="the guest's agent",
    )
    ended = answer.json()
    assert answer.status_code < 300, ended
    assert ended["exit_code"] == 0, ended
    return str(ended["stdout"]).strip()


def heard(cloud: Platform, listener: Listener, mark: int, count: int) -> list[Tick]:
    """The ticks since the first `mark`, once there are `count` more of them."""
    try:
        eventually(lambda: len(listener.ticks) >= mark + count, timeout=120)
    except AssertionError as error:
        came, silence_s = len(listener.ticks) - mark, time.monotonic() - listener.ticks[-1].at
        last = f"{came} of {count} ticks in 120 s, the last {silence_s:.0f} s ago"
        raise AssertionError(f"{last}\n{cloud.log('web')[-2000:]}") from error
    return listener.since(mark)


def mounted(cloud: Platform, volume: str, *, vm: str = "web") -> str:
    """Find a volume in a guest by its serial number and mount it; the path of the disk."""
    serial = cloud.get(f"/v1/volumes/{volume}")["id"][-20:]
    disk = str(eventually(lambda: said(cloud, FIND.format(serial=serial), vm=vm), what="the volume in the guest"))
    said(cloud, f"mkdir -p /data; blkid {disk} >/dev/null || mkfs.ext4 -q {disk}; mount {disk} /data", vm=vm)
    return disk


def attached(cloud: Platform) -> str:
    vm = done(cloud.post("/v1/vms/web/volumes", {"volume": "data"}, wait=WAIT))
    assert vm["restart_required"] == []
    return mounted(cloud, "data")


def detached(cloud: Platform) -> None:
    said(cloud, "umount /data")
    done(cloud.delete("/v1/vms/web/volumes/data", wait=WAIT))
    eventually(lambda: cloud.get("/v1/volumes/data")["vm"] is None, what="a free volume")


def lightened(cloud: Platform) -> None:
    """Part with what does not go along when a machine moves while it runs: volumes and checkpoints."""
    detached(cloud)
    done(cloud.delete("/v1/vms/web/checkpoints/whole", wait=WAIT))


def test_a_machine_lives_through_everything_and_its_program_counts_on(cloud: Platform, listener: Listener) -> None:
    done(cloud.post("/v1/vms", MACHINE, wait=WAIT))
    ready(cloud, "web")
    said(cloud, "cat >/root/count.py", stdin=PROGRAM)
    said(cloud, f"setsid python3 /root/count.py {listener.port} {COUNT} >/dev/null 2>&1 </dev/null &")
    assert breaks(heard(cloud, listener, 0, 10)) == []

    a_volume_comes_is_kept_and_put_back(cloud)
    a_twin_is_somebody_else(cloud)
    it_grows(cloud)
    assert breaks(listener.ticks) == []

    it_goes_on_from_a_checkpoint(cloud, listener)
    lightened(cloud)
    gap, still = it_goes_to_another_node(cloud, listener)
    print(f"longest gap when it moved {gap:.0f} ms, before {still:.0f} ms; a tick every {EVERY_S * 1000:.0f} ms")

    stopped = done(cloud.post("/v1/vms/web/stop", wait=WAIT))
    assert (stopped["phase"], stopped["run"]["exit_reason"]) == ("stopped", "stopped")
    assert "DEBIAN leaves" in cloud.log("web")
    cloud.delete("/v1/vms/web", wait=WAIT)
    eventually(lambda: cloud.guest_pids() == [], what="nothing runs")


def a_volume_comes_is_kept_and_put_back(cloud: Platform) -> None:
    """Plugged in and snapshotted while the guest writes to it; later it holds what had been written by then."""
    done(cloud.post("/v1/volumes", {"name": "data", "size_bytes": 32 * MIB}, wait=WAIT))
    attached(cloud)
    said(cloud, "echo before >/data/word; touch /data/go; sync")
    said(cloud, f"setsid sh -c '{WRITER}' >/dev/null 2>&1 </dev/null &")

    def written() -> int:
        return int(said(cloud, "tail -n 1 /data/numbers"))

    eventually(lambda: written() > 3, what="numbers on the volume")
    early = written()
    done(cloud.post("/v1/volumes/data/snapshots", {"name": "early"}, wait=WAIT))
    assert cloud.get("/v1/volumes/data/snapshots/early")["consistency"] == "filesystem", "its agent held it still"
    late = written()
    eventually(lambda: written() > late, what="a guest that writes on")
    said(cloud, "rm /data/go; echo after >/data/word; sync")
    detached(cloud)
    done(cloud.post("/v1/volumes/data/restore", {"snapshot": "early"}, wait=WAIT))
    attached(cloud)
    assert said(cloud, "cat /data/word") == "before"
    kept = written()
    assert early - 1 <= kept <= late + 1  # a number is read before it is surely on the volume
    assert said(cloud, f"seq {kept} | cmp - /data/numbers && echo whole") == "whole"
    said(cloud, "rm /data/go")
    done(cloud.delete("/v1/volumes/data/snapshots/early", wait=WAIT))


def a_twin_is_somebody_else(cloud: Platform) -> None:
    """A machine from a checkpoint has the same content, and nothing of who its origin is."""
    said(cloud, "echo shared >/root/shared; cat /proc/sys/kernel/random/uuid | tr -d - >/etc/machine-id; sync")
    mine = said(cloud, IDENTITY).splitlines()
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "early"}, wait=WAIT))
    assert cloud.get("/v1/vms/web/checkpoints/early")["consistency"] == "filesystem"
    said(cloud, "echo web >/root/shared; echo web >/data/word; sync")
    done(cloud.post("/v1/vms", {"name": "twin", "checkpoint": "web/early"}, wait=WAIT))
    ready(cloud, "twin")
    mounted(cloud, "twin-data", vm="twin")
    assert said(cloud, "cat /root/shared /data/word", vm="twin").split() == ["shared", "before"]
    twin = said(cloud, IDENTITY, vm="twin").splitlines()
    assert (len(mine), len(twin), len(twin[0]), twin[1]) == (4, 4, 32, "twin")
    assert [one for one in twin if one in mine] == []
    assert said(cloud, IDENTITY).splitlines() == mine
    assert said(cloud, "cat /root/shared /data/word").split() == ["web", "web"]
    cloud.delete("/v1/vms/twin", wait=WAIT)
    done(cloud.delete("/v1/volumes/twin-data", wait=WAIT))
    done(cloud.delete("/v1/vms/web/checkpoints/early", wait=WAIT))


def it_grows(cloud: Platform) -> None:
    """CPUs, memory and disks, seen in the guest without a restart."""
    cpus, memory = (int(one) for one in said(cloud, ONLINE).split())
    assert cpus == 1
    change = {"cpus": 2, "memory_bytes": 384 * MIB, "disk_bytes": (DISK_MIB + 128) * MIB}
    changed = cloud.request("PATCH", "/v1/vms/web", json=change, params={"wait": WAIT})
    assert done(changed.json())["restart_required"] == []

    def more() -> bool:
        now = [int(one) for one in said(cloud, ONLINE).split()]
        return now[0] == 2 and now[1] - memory >= 120 << 10  # KiB, of which the kernel keeps some for itself

    eventually(more, what="the second CPU and the memory")
    changed = cloud.request("PATCH", "/v1/volumes/data", json={"size_bytes": 64 * MIB}, params={"wait": WAIT})
    done(changed.json())
    for folder, least in (("/", DISK_MIB + 64), ("/data", 48)):
        said(cloud, f"resize2fs $(findmnt -no SOURCE {folder}) 2>&1")
        assert int(said(cloud, f"df -m --output=size {folder} | tail -n 1")) > least


def it_goes_on_from_a_checkpoint(cloud: Platform, listener: Listener) -> None:
    """Put back with its memory, the program counts on from where it was then."""
    said(cloud, "echo then | tee /root/word >/data/word; sync")
    before = listener.ticks[-1]
    done(cloud.post("/v1/vms/web/checkpoints", {"name": "whole", "memory": True}, wait=WAIT))
    found = cloud.get("/v1/vms/web/checkpoints/whole")
    assert (found["phase"], found["consistency"], found["memory_bytes"] > MIB) == ("ready", "memory", True)
    after = listener.ticks[-1]
    heard(cloud, listener, len(listener.ticks), 50)
    assert breaks(listener.ticks) == []
    said(cloud, "echo later | tee /root/word >/data/word; sync")

    mark = len(listener.ticks)
    done(cloud.post("/v1/vms/web/restore", {"checkpoint": "whole", "stop": True}, wait=WAIT))
    eventually(lambda: breaks(listener.ticks), what="a program that goes on from where it was")
    heard(cloud, listener, len(listener.ticks), 20)
    ((last, first),) = breaks(listener.since(mark))
    assert first.boot == before.boot
    assert before.count < first.count <= after.count + 1 < last.count
    assert int(said(cloud, f"cat {COUNT}")) >= first.count
    assert said(cloud, "cat /root/word /data/word; nproc").split() == ["then", "then", "2"]


def it_goes_to_another_node(cloud: Platform, listener: Listener) -> tuple[float, float]:
    """It goes on elsewhere. Returns the longest gap between its ticks, and that of as many ticks without a move."""
    here = cloud.vm("web")["node"]["name"]
    mark = len(listener.ticks)
    move = cloud.post("/v1/vms/web/move", {"method": "live"})
    path = f"/v1/moves/{move['id']}"
    ended = eventually(lambda: (now := cloud.get(path))["ended_at"] and now, timeout=WAIT, what="the end of a move")
    result = (ended["state"], ended["way"], ended["stopped_because"])
    assert result == ("done", "live", ""), (ended["message"], ended["live"])
    there = listener.ticks[-1]
    heard(cloud, listener, len(listener.ticks), 20)
    moving = listener.since(mark)
    assert breaks(moving) == []
    eventually(lambda: listener.ticks[-1].thanked > there.count, what="a guest that is answered")
    assert cloud.vm("web")["node"]["name"] != here
    assert said(cloud, "cat /root/word; nproc").split() == ["then", "2"]
    assert int(said(cloud, f"cat {COUNT}")) > moving[-1].count
    still = heard(cloud, listener, len(listener.ticks), len(moving))
    assert breaks(listener.since(mark)) == []
    return longest_gap_ms(moving), longest_gap_ms(still)

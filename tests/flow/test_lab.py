"""The lab itself: what is cut is cut, power that is off is off, and nothing is left of it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import netns
from support.netns import Host, Lab
from support.platform import eventually

pytestmark = [pytest.mark.host, pytest.mark.skipif(netns.hindrance() != "", reason=netns.hindrance() or "-")]

LONG = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with netns.lab() as made:
        made.host("c0", 10, "control")
        made.host("w", 9, "data")
        for index in (1, 2):
            made.host(f"n{index}", 20 + index)
        yield made


@pytest.fixture
def node(lab: Lab) -> Iterator[Host]:
    yield lab.hosts["n1"]
    lab.hosts["n1"].heal()


def arrives(sender: Host, receiver: Host, network: str) -> bool:
    """Whether a datagram gets through."""
    listening = receiver.inside(lambda: netns.bound(receiver.addresses[network]))
    with listening, sender.inside(lambda: netns.bound(sender.addresses[network])) as sending:
        sending.sendto(b"hello", listening.getsockname())
        listening.settimeout(0.3)
        try:
            return listening.recv(16) == b"hello"
        except TimeoutError:
            return False


def test_hosts_reach_each_other_on_both_networks(lab: Lab, node: Host) -> None:
    assert arrives(node, lab.hosts["c0"], "control")
    assert arrives(lab.hosts["c0"], node, "control")
    assert arrives(node, lab.hosts["n2"], "control")
    assert arrives(node, lab.hosts["w"], "data")


def test_a_cut_from_the_control_plane_leaves_the_witness_in_reach(lab: Lab, node: Host) -> None:
    node.cut("control")
    assert not arrives(node, lab.hosts["c0"], "control")
    assert not arrives(lab.hosts["c0"], node, "control")
    assert arrives(node, lab.hosts["w"], "data")
    assert arrives(lab.hosts["n2"], lab.hosts["c0"], "control")
    node.heal("control")
    assert arrives(node, lab.hosts["c0"], "control")


def test_a_cut_may_be_one_way(lab: Lab, node: Host) -> None:
    node.cut("control", "in")
    assert arrives(node, lab.hosts["c0"], "control")
    assert not arrives(lab.hosts["c0"], node, "control")
    node.heal()
    node.cut("control", "out")
    assert not arrives(node, lab.hosts["c0"], "control")
    assert arrives(lab.hosts["c0"], node, "control")


def test_power_off_ends_every_process_at_once_and_the_host_comes_back(lab: Lab, node: Host) -> None:
    running = [subprocess.Popen(node.words(*LONG), start_new_session=True) for _ in range(3)]
    eventually(lambda: len(node.pids()) == 3, what="three processes")
    node.power_off()
    assert node.pids() == []
    assert [process.wait(5) for process in running] == [-9, -9, -9]
    node.link("up")
    assert arrives(node, lab.hosts["c0"], "control")


def test_a_program_sees_the_boot_id_of_its_host(node: Host, tmp_path: Path) -> None:
    (tmp_path / "boot").write_text("this-boot\n")
    words = node.words("cat", "/proc/sys/kernel/random/boot_id", boot_id=tmp_path / "boot")
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == "this-boot\n"
    assert Path("/proc/sys/kernel/random/boot_id").read_text() != "this-boot\n"


def test_what_a_killed_test_left_is_removed_by_the_next_lab(tmp_path: Path) -> None:
    script = (
        "import subprocess, sys, time\n"
        "from support import netns\n"
        "lab = netns.Lab()\n"
        f"subprocess.Popen(lab.host('n1', 21).words(*{LONG!r}), start_new_session=True)\n"
        "print(lab.prefix, flush=True)\n"
        "time.sleep(600)\n"
    )
    tests = Path(netns.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=tests) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        netns.sweep()
        (left,) = eventually(lambda: netns.pids_in(f"{prefix}-n1"), what="its program")
        process.kill()
    netns.sweep()
    assert netns.pids_in(f"{prefix}-n1") == []
    assert not [path for path in Path("/run/netns").iterdir() if path.name.startswith(prefix)]
    assert not list(Path("/tmp").glob(f"{prefix}*"))
    eventually(lambda: not Path(f"/proc/{left}").exists(), what="its program gone")


def test_a_closed_lab_leaves_nothing() -> None:
    began = time.monotonic()
    with netns.lab() as made:
        made.host("n1", 21)
        process = subprocess.Popen(made.hosts["n1"].words(*LONG), start_new_session=True)
        eventually(made.hosts["n1"].pids, what="its program")
    assert process.wait(5) == -9
    assert not [path for path in Path("/run/netns").iterdir() if path.name.startswith(made.prefix)]
    assert not made.root.exists()
    assert time.monotonic() - began < 30

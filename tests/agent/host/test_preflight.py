"""Whether a host can be a node: what is wrong with it, how bad that is, and what to do there."""

from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.host import preflight
from nacre.agent.host.cgroups import Layout
from nacre.agent.host.preflight import Finding, Level, Situation, judge
from nacre.model.nodes import Capacity, HypervisorInfo, Usage
from nacre.model.units import GIB, MIB
from support.hosttree import plant, write

QEMU = HypervisorInfo(name="qemu", available=True, version="7.2.9", accelerator="kvm")
WELL = Situation(
    python=(3, 11),
    hypervisors=(QEMU,),
    capacity=Capacity(cpus=4, memory_bytes=16 * GIB, disk_bytes=500 * GIB),
    usage=Usage(load1=0, memory_bytes=GIB, disk_bytes=100 * GIB),
    data=Path("/var/lib/nacre/agent"),
    gateways={"cloud:7481": ""},
)


def slow(reason: str) -> HypervisorInfo:
    return HypervisorInfo(name="qemu", available=True, version="7.2.9", accelerator="tcg", reason=f"kvm: {reason}")


def wrong(situation: Situation) -> Finding:
    """The one thing that is wrong."""
    found = [finding for finding in judge(situation) if finding.level is not Level.OK]
    assert len(found) == 1, found
    assert found[0].hint
    return found[0]


def test_a_host_that_is_well_has_nothing_to_put_right():
    findings = judge(WELL)
    assert {finding.level for finding in findings} == {Level.OK}
    assert [finding.check for finding in findings][:4] == ["python", "qemu", "qemu-img", "acceleration"]


@pytest.mark.parametrize(
    ("changes", "check", "level", "hint"),
    [
        ({"python": (3, 10)}, "python", Level.FAIL, "apt-get install python3"),
        ({"hypervisors": ()}, "hypervisor", Level.FAIL, "qemu"),
        (
            {"hypervisors": (HypervisorInfo(name="qemu", available=False, reason="not installed; hint"),)},
            "qemu",
            Level.FAIL,
            "apt-get install qemu-system-x86",
        ),
        ({"qemu_img": False}, "qemu-img", Level.FAIL, "qemu-utils"),
        ({"data_writable": False}, "data", Level.FAIL, "data_dir"),
        ({"usage": Usage(load1=0, memory_bytes=GIB, disk_bytes=500 * GIB - 100 * MIB)}, "data", Level.FAIL, "room"),
        ({"usage": Usage(load1=0, memory_bytes=GIB, disk_bytes=490 * GIB)}, "data", Level.WARN, "larger disk"),
        ({"capacity": Capacity(cpus=1, memory_bytes=GIB, disk_bytes=500 * GIB)}, "memory", Level.WARN, "small"),
        ({"open_files": 512}, "open files", Level.FAIL, "LimitNOFILE"),
        ({"open_files": 1024}, "open files", Level.WARN, "ulimit -n"),
        ({"groups": Layout(0, reason="none")}, "cgroups", Level.WARN, "version 2"),
        ({"groups": Layout(0, reason="none"), "root": False}, "cgroups", Level.WARN, "as root"),
        ({"synchronised": False}, "clock", Level.WARN, "apt-get install chrony"),
        ({"network": "no network interface is up"}, "network", Level.WARN, "ip link"),
        ({"gateways": {"a:1": "", "b:2": "no answer"}}, "control plane", Level.FAIL, "firewall"),
    ],
)
def test_each_thing_that_is_wrong_is_named_with_what_to_do(
    changes: dict[str, object], check: str, level: Level, hint: str
):
    found = wrong(replace(WELL, **changes))  # type: ignore[arg-type]
    assert (found.check, found.level) == (check, level)
    assert hint in found.hint


@pytest.mark.parametrize(("version", "level"), [("5.2.0", Level.FAIL), ("6.2.0", Level.WARN), ("10.0.1", Level.OK)])
def test_an_old_qemu_is_refused_and_an_untested_one_is_warned_of(version: str, level: Level):
    qemu = HypervisorInfo(name="qemu", available=True, version=version, accelerator="kvm")
    (found,) = (each for each in judge(replace(WELL, hypervisors=(qemu,))) if each.check == "qemu")
    assert found.level is level
    assert version in found.message


@pytest.mark.parametrize(
    ("reason", "changes", "hint"),
    [
        ("the agent may not open /dev/kvm", {"user": "ann"}, "usermod -aG kvm ann"),
        ("the node has no /dev/kvm", {"cpu_flags": frozenset({"vmx"})}, "modprobe kvm_intel"),
        ("the node has no /dev/kvm", {"cpu_flags": frozenset({"svm"})}, "modprobe kvm_amd"),
        ("the node has no /dev/kvm", {}, "firmware"),
        ("the node has no /dev/kvm", {"cpu_flags": frozenset({"hypervisor"})}, "nested virtualisation"),
        ("not proven on this node yet", {}, "probe_kernel"),
        ("no kernel printed its first line within 8 s", {}, "newer kernel"),
        ("QEMU gave up", {"cpu_flags": frozenset({"hypervisor", "svm"})}, "where it runs"),
        ("no hardware acceleration", {"family": "macos"}, "Linux"),
    ],
)
def test_why_there_is_no_acceleration_decides_what_to_do(reason: str, changes: dict[str, object], hint: str):
    found = wrong(replace(WELL, hypervisors=(slow(reason),), **changes))  # type: ignore[arg-type]
    assert (found.check, found.level) == ("acceleration", Level.WARN)
    assert reason in found.message
    assert hint in found.hint


@pytest.mark.parametrize(
    ("family", "root", "hint"),
    [
        ("debian", True, "apt-get install qemu-utils"),
        ("debian", False, "sudo apt-get install qemu-utils"),
        ("fedora", True, "dnf install qemu-img"),
        ("arch", True, "pacman -S qemu-img"),
        ("macos", False, "brew install qemu"),
        ("", True, "this system's packages"),
    ],
)
def test_packages_are_named_as_this_system_calls_them(family: str, root: bool, hint: str):
    assert wrong(replace(WELL, qemu_img=False, family=family, root=root)).hint.startswith(("install", hint))
    assert hint in wrong(replace(WELL, qemu_img=False, family=family, root=root)).hint


@pytest.mark.parametrize(
    ("release", "family"),
    [
        ('ID=debian\nVERSION_ID="12"', "debian"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"', "debian"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"', "fedora"),
        ("ID=arch", "arch"),
        ("ID=gentoo", ""),
    ],
)
def test_the_kind_of_system_is_told_by_its_name_and_its_relatives(tmp_path: Path, release: str, family: str):
    write(tmp_path, "etc/os-release", release)
    assert preflight.family(tmp_path) == family


def test_a_host_is_looked_at_without_changing_it(tmp_path):
    root = plant("server", tmp_path / "host")
    write(root, "sys/module/kvm_intel/parameters/nested", "Y")
    situation = preflight.look(tmp_path / "not" / "there", (QEMU,), {"cloud:7481": ""}, root)
    assert not (tmp_path / "not").exists()
    assert situation.data_writable
    assert situation.nested is True
    assert len(situation.made_of.numa) == 2
    said = {finding.check: finding.message for finding in judge(situation)}
    assert said["huge pages"] == "512 of 2MiB, 4 of 1GiB"
    assert said["numa"].startswith("node 0: CPUs 0-1,4-5")
    assert said["nested"] == "guests can have accelerated guests of their own"


def test_whether_the_clock_is_kept_right_can_be_asked():
    assert preflight.synchronised() in {True, False, None}

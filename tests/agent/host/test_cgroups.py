"""Control groups: found where they can be made, made for each machine, gone with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nacre.agent.host import cgroups
from nacre.agent.host.cgroups import Cgroups, Layout, find
from support.intents import vm_id


def test_version_two_is_used_where_its_controllers_are(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    layout = find(tmp_path)
    assert layout == Layout(2, (tmp_path / "nacre",))
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_without_controllers_version_one_is_used_under_our_own_groups(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("\n")
    own = tmp_path / "own"
    own.write_text("4:memory:/some/where\n2:cpu,cpuacct:/\n0::/\n")
    (tmp_path / "memory/some/where").mkdir(parents=True)
    (tmp_path / "cpu").mkdir()
    assert find(tmp_path, own) == Layout(1, (tmp_path / "memory/some/where/nacre", tmp_path / "cpu/nacre"))
    assert not (tmp_path / "cpu/nacre").exists()


def test_where_nothing_can_be_made_there_is_a_reason(tmp_path):
    assert find(tmp_path / "none").reason
    own = tmp_path / "own"
    own.write_text("0::/\n")
    assert find(tmp_path, own).reason
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    assert "memory" in find(tmp_path, own).reason


def test_a_group_that_cannot_be_made_is_complained_of_once_and_harms_nobody(tmp_path):
    (tmp_path / "file").write_text("")
    groups = Cgroups(Layout(1, (tmp_path / "file" / "nacre",)))
    groups.add(vm_id(), 1, 0)
    groups.add(vm_id(), 1, 0)
    groups.remove(vm_id())


@pytest.mark.host
def test_a_process_is_in_its_group_with_a_bound_on_memory_until_it_is_gone():
    layout = find()
    if not layout.parents:
        pytest.skip(layout.reason)
    groups, vm = Cgroups(layout), vm_id()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        groups.add(vm, child.pid, 1 << 26)
        assert f"nacre/{vm}" in Path(f"/proc/{child.pid}/cgroup").read_text()
        name = "memory.max" if layout.version == 2 else "memory.limit_in_bytes"
        bounds = [int((parent / vm / name).read_text()) for parent in layout.parents if (parent / vm / name).exists()]
        assert bounds == [(1 << 26) + (1 << 23) + cgroups._OVERHEAD]
    finally:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()
    groups.remove(vm)
    groups.remove(vm)
    assert not any((parent / vm).exists() for parent in layout.parents)


@pytest.mark.host
def test_a_process_that_has_ended_leaves_no_group():
    layout = find()
    if not layout.parents:
        pytest.skip(layout.reason)
    vm = vm_id()
    Cgroups(layout).add(vm, (1 << 22) - 1, 0)
    assert not any((parent / vm).exists() for parent in layout.parents)


def test_empty_groups_that_nobody_came_back_for_are_swept_and_young_ones_are_not(tmp_path):
    old, young, used = (tmp_path / "nacre" / vm_id() for _ in range(3))
    for group in (old, young, used):
        group.mkdir(parents=True)
    (used / "child").mkdir()
    for group in (old, used):
        os.utime(group, (1000, 1000))
    Cgroups(Layout(1, (tmp_path / "nacre", tmp_path / "none"))).sweep()
    assert sorted((tmp_path / "nacre").iterdir()) == sorted((young, used))

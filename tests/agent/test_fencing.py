"""Real agents, guards and guests: whatever is stopped, killed, late or set wrong, no guest outlives its lease."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nacre.agent.hypervisors import guarding
from nacre.lib import processes
from nacre.lib.clock import SystemClock
from nacre.model.copies import CopyRef, RetiredVm
from nacre.model.vms import Desired, ExitReason, HaPolicy, VmIntent
from support.agents import AgentProgram, agent, wait_for
from support.intents import newer, vm_intent
from support.thorough import seeds
from support.wallclock import WallClock

pytestmark = pytest.mark.skipif(bool(guarding.obstacle()), reason=guarding.obstacle() or "guards work here")


def safe(**changes: object) -> VmIntent:
    return vm_intent(**({"ha": HaPolicy.RESTART, "fence": 1, "kernel_args": "fake.tick=0.02"} | changes))


@pytest.fixture
def program() -> Iterator[AgentProgram]:
    with agent() as made:
        yield made


def now() -> float:
    return SystemClock().boottime()


def ticks(program: AgentProgram, vm: VmIntent) -> int:
    log = program.root / "data/vms" / vm.id / "console.log"
    return log.read_text().count("tick") if log.exists() else 0


def is_stopped(pid: int) -> bool:
    return processes.is_stopped(pid, processes.start_time(pid) or 0)


def started(program: AgentProgram, vm: VmIntent, seconds: float = 3600) -> int:
    """A guest that runs under a guard."""
    program.grant(vm, seconds)
    program.want(vm)
    program.start()
    wait_for(lambda: program.said("vm.started") == 1, program.tail)
    wait_for(lambda: ticks(program, vm) > 2, program.tail)
    (pid,) = program.pids()
    return pid


def test_a_stopped_agent_does_not_keep_its_guests_from_being_frozen_in_time(program):
    vm = safe()
    pid = started(program, vm)
    os.kill(program.process.pid, signal.SIGSTOP)
    program.grant(vm, 1.0)
    deadline = now() + 1.0
    wait_for(lambda: is_stopped(pid), program.tail)
    assert now() - deadline < 0.3
    counted = ticks(program, vm)
    os.kill(program.process.pid, signal.SIGCONT)
    wait_for(lambda: program.said("vm.frozen") == 1, program.tail)
    assert ticks(program, vm) == counted
    program.grant(vm)
    wait_for(lambda: program.said("vm.thawed") == 1, program.tail)
    wait_for(lambda: ticks(program, vm) > counted, program.tail)
    assert program.pids() == [pid]


def test_an_agent_that_is_stopped_before_a_start_and_goes_on_late_starts_nothing(program):
    """Stopped at a random moment of the start, again and again; every lease is over when it goes on."""
    chance = random.Random(7)
    for _ in range(6):
        vm = safe()
        program.want(vm)
        lease = program.grant(vm, 2.3)
        program.start()
        time.sleep(chance.random() * 0.3)
        os.kill(program.process.pid, signal.SIGSTOP)
        over = guarding.read_lease(lease)
        wait_for(lambda over=over: now() > over + 0.2)
        before = ticks(program, vm)  # it may have been started in time, and is frozen then
        os.kill(program.process.pid, signal.SIGCONT)
        if before == 0:
            wait_for(lambda vm=vm: f'"vm": "{vm.id}"' in program.log.read_text(), program.tail)
        time.sleep(0.5)
        assert ticks(program, vm) == before
        assert all(is_stopped(pid) for pid in program.pids())
        program.kill()
        for pid in program.pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not program.pids() and not program.guards())


def test_guests_go_on_while_an_agent_is_killed_and_another_comes(program):
    vm = safe()
    pid = started(program, vm)
    program.kill()
    before = ticks(program, vm)
    program.start()
    wait_for(lambda: program.said("vm.adopted") == 1, program.tail)
    wait_for(lambda: ticks(program, vm) > before + 5, program.tail)
    assert program.pids() == [pid]
    assert len(program.guards()) == 1
    assert program.said("vm.frozen") == program.said("vm.found_frozen") == 0


def test_a_machine_of_an_old_desired_state_is_not_started_without_a_lease(program):
    vm, plain = safe(), vm_intent(fence=1)
    program.want(vm, plain)
    program.start()
    wait_for(lambda: program.said("vm.started") == 1, program.tail)
    wait_for(lambda: '"code": "lease_missing"' in program.log.read_text(), program.tail)
    assert len(program.pids()) == 1
    assert program.guards() == []
    assert ticks(program, vm) == 0


@pytest.mark.parametrize("content", ["999999999999999999 another-boot", "1 {boot}", "nonsense"])
def test_nor_with_one_of_before_a_reboot_or_that_is_over(program, content):
    vm = safe()
    program.grant(vm).write_text(content.format(boot=processes.boot_id()))
    program.want(vm)
    program.start()
    wait_for(lambda: '"code": "lease_missing"' in program.log.read_text(), program.tail)
    assert program.pids() == []


@pytest.mark.parametrize("shift", ["+2h", "-2h"])
def test_what_the_wall_clock_says_changes_nothing(shift):
    """The agent and the guard start with the right time, and it is moved while they run."""
    with agent() as program:
        clock = WallClock(program.root / "offset")
        program.environment = clock.environment
        vm, late = safe(), safe()
        pid = started(program, vm)
        clock.jump(shift)
        before = ticks(program, vm)
        wait_for(lambda: ticks(program, vm) > before + 10, program.tail)
        assert not is_stopped(pid)
        program.terminate()
        program.want(vm, late)
        program.grant(late)
        program.start()
        wait_for(lambda: program.said("vm.started") == 2, program.tail)
        assert len(program.guards()) == 2
        deadline = now() + 1.0
        program.grant(vm, 1.0)
        wait_for(lambda: is_stopped(pid), program.tail)
        assert now() - deadline > -0.05


def test_a_frozen_guest_is_ended_without_ceremony_when_all_are_stopped(program):
    vm = safe(stop_timeout_s=60.0)
    pid = started(program, vm)
    program.grant(vm, 0.0)
    wait_for(lambda: is_stopped(pid))
    program.terminate()
    argv = [sys.executable, "-m", "nacre.agent.guests", "--config", str(program.config), "--timeout", "50"]
    began = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 20
    assert program.pids() == program.guards() == []
    record = program.record(vm.id)
    assert record.run.info.exit_reason is ExitReason.KILLED
    assert not program.run.exists()


def test_a_host_that_stops_its_service_of_the_agent_does_not_stop_guards(program):
    """Signals to the agent's whole group and session reach neither guards nor guests."""
    vm = safe()
    pid = started(program, vm)
    (guard,) = program.guards()
    assert os.getpgid(guard) != os.getpgid(program.process.pid)
    assert os.getsid(guard) != os.getsid(program.process.pid)
    os.killpg(program.process.pid, signal.SIGTERM)
    program.process.wait(10)
    before = ticks(program, vm)
    wait_for(lambda: ticks(program, vm) > before + 5)
    assert (program.pids(), program.guards()) == ([pid], [guard])


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", seeds(2))
def test_whatever_is_killed_while_machines_are_let_go_of_each_becomes_one_copy_and_nothing_is_left(program, seed):
    chance = random.Random(seed)
    vms = [safe(), safe(kernel_args="fake.deaf"), safe(kernel_args="fake.crash=0.3"), vm_intent(fence=1)]
    for vm in vms:
        program.grant(vm)
    program.want(*vms)
    program.start()
    wait_for(lambda: program.said("vm.started") >= len(vms), program.tail)
    for vm in vms:
        (program.root / "data/vms" / vm.id / "root.qcow2").write_text(vm.id)
    program.grant(vms[0], 0.0)
    program.kill()
    program.want(retired=tuple(RetiredVm(id=vm.id, fence=1) for vm in vms))
    for _ in range(12):
        program.start()
        time.sleep(chance.random() * 0.15)
        for pid in (*program.guards(), *program.pids()):
            if chance.random() < 0.2:
                kill(pid)
        program.kill()
    program.start()
    copies = program.root / "data/copies"
    wait_for(lambda: len(list(copies.iterdir())) == len(vms) and not list(records(program)), program.tail)
    assert program.pids() == program.guards() == []
    assert {path.name for path in copies.iterdir()} == {f"{vm.id}.1" for vm in vms}
    assert all((copies / f"{vm.id}.1/root.qcow2").read_text() == vm.id for vm in vms)
    assert list((program.root / "data/vms").iterdir()) == []
    wait_for(lambda: not list(program.run.glob("vm-*")), program.tail)
    program.kill()
    program.want(discard=tuple(CopyRef(id=vm.id, fence=1) for vm in vms[:2]))
    for _ in range(3):
        program.start()
        time.sleep(chance.random() * 0.1)
        program.kill()
    program.start()
    wait_for(lambda: {path.name for path in copies.iterdir()} == {f"{vm.id}.1" for vm in vms[2:]}, program.tail)


def records(program: AgentProgram) -> Iterator[Path]:
    return (program.root / "data/records").iterdir()


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_newer_placement_after_a_crash_of_everything_begins_anew_beside_the_old_disk(program):
    vm = safe()
    started(program, vm)
    (program.root / "data/vms" / vm.id / "root.qcow2").write_text("old")
    program.kill()
    for pid in program.guards():
        kill(pid)
    wait_for(lambda: not program.pids())
    back = newer(vm, Desired.RUNNING, fence=2)
    program.grant(back)
    program.want(back, retired=(RetiredVm(id=vm.id, fence=1),))
    program.start()
    wait_for(lambda: program.said("vm.started") == 2, program.tail)
    assert (program.root / "data/copies" / f"{vm.id}.1/root.qcow2").read_text() == "old"
    assert len(program.pids()) == len(program.guards()) == 1

"""The agent as a program: it is killed at any moment, and nothing runs twice, is lost, or is left."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from nacre.model.ids import VmId
from nacre.model.vms import Desired, VmIntent
from support.agents import AgentProgram, agent, wait_for
from support.intents import newer, vm_intent
from support.platform import free_port
from support.thorough import seeds

ROUNDS = 25


class Witness(threading.Thread):
    """Looks at the host's processes all the time and remembers any machine that was seen twice at once."""

    def __init__(self, program: AgentProgram) -> None:
        super().__init__(daemon=True)
        self._program = program
        self._ended = threading.Event()
        self.doubles: list[str] = []
        self.looks = 0

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.looks += 1
            seen = Counter(filter(None, map(machine_of, self._program.pids())))
            self.doubles += [vm for vm, count in seen.items() if count > 1]

    def end(self) -> None:
        self._ended.set()
        self.join()


def machine_of(pid: int) -> str | None:
    """The machine of a guest process; None for a child that is about to become one."""
    try:
        config = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[-2]
        return Path(os.fsdecode(config)).parent.name
    except (FileNotFoundError, ProcessLookupError, IndexError):
        return None


def groups_of(vms: list[VmId]) -> list[str]:
    return [str(path) for path in Path("/sys/fs/cgroup").glob("**/nacre/vm-*") if path.name in vms]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("seed", seeds(2))
def test_killed_at_any_moment_it_adopts_or_starts_afresh_and_never_doubles_or_leaks(seed: int):
    chance = random.Random(seed)
    kinds = ["", "", "", "fake.deaf", "fake.crash=0.4", "fake.boot=0.1"]
    wanted: dict[VmId, VmIntent] = {}
    for kind in kinds:
        intent = vm_intent(kernel_args=kind, stop_timeout_s=0.3)
        wanted[intent.id] = intent
    everything = list(wanted)
    with agent() as program:
        witness = Witness(program)
        witness.start()
        for _ in range(ROUNDS):
            program.want(*wanted.values())
            program.start()
            time.sleep(chance.random() * chance.choice([0.05, 0.3, 0.8]))
            if chance.random() < 0.3:
                for pid in program.pids():
                    if chance.random() < 0.5:
                        kill(pid)
            program.kill()
            for vm in chance.sample(everything, 3):
                wanted[vm] = changed(wanted[vm], chance)
        program.want(*wanted.values())
        program.start()
        wait_for(lambda: converged(program, wanted), lambda: f"{program.tail()}\n{wanted}", timeout=30)
        program.kill()
        gone = [newer(intent, Desired.ABSENT) for intent in wanted.values()]
        program.want(*gone)
        program.start()
        wait_for(lambda: all((r := program.record(vm)) and r.deleted for vm in everything), program.tail, timeout=30)
        witness.end()
        assert witness.looks > 50
        assert witness.doubles == []
        assert program.pids() == []
        assert list((program.root / "data/vms").iterdir()) == []
        assert list((program.root / "run").glob("vm-*")) == []
        assert groups_of(everything) == []


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def changed(intent: VmIntent, chance: random.Random) -> VmIntent:
    """What a user may ask for next. Nothing that was deleted comes back."""
    match chance.choice(["run", "stop", "force", "pause", "reset", "reboot"]):
        case "run":
            return newer(intent, Desired.RUNNING, force_stop=False)
        case "stop":
            return newer(intent, Desired.STOPPED, force_stop=False)
        case "force":
            return newer(intent, Desired.STOPPED, force_stop=True)
        case "pause":
            return newer(intent, Desired.PAUSED, force_stop=False)
        case "reset":
            return newer(intent, reset_nonce=intent.reset_nonce + 1)
        case _:
            return newer(intent, reboot_nonce=intent.reboot_nonce + 1)


def converged(program: AgentProgram, wanted: dict[VmId, VmIntent]) -> bool:
    here = {machine_of(pid) for pid in program.pids()}
    for vm, intent in wanted.items():
        record = program.record(vm)
        if record is None or record.generation != intent.generation:
            return False
        if (record.reboot_nonce, record.reset_nonce) != (intent.reboot_nonce, intent.reset_nonce):
            return False
        should_run = intent.desired in {Desired.RUNNING, Desired.PAUSED}
        loops = "crash" in intent.spec.kernel_args and should_run  # comes and goes for ever
        if not loops and (vm in here) != should_run:
            return False
    return True


def test_sigterm_leaves_guests_running_and_is_quick_even_in_the_middle_of_work():
    intent = vm_intent()
    stubborn = vm_intent(kernel_args="fake.deaf", stop_timeout_s=600)
    with agent() as program:
        program.want(intent, stubborn)
        program.start()
        wait_for(lambda: program.said("vm.started") == 2, program.tail)
        assert program.terminate() < 2
        before = program.pids()
        assert len(before) == 2
        program.want(intent, newer(stubborn, Desired.STOPPED))
        program.start()
        wait_for(lambda: (r := program.record(stubborn.id)) and r.ending is not None, program.tail)
        assert program.terminate() < 2
        assert program.process is not None
        assert program.process.returncode == 0
        assert sorted(program.pids()) == sorted(before)


def test_it_is_small_when_idle():
    with agent() as program:
        program.want(vm_intent())
        program.start()
        wait_for(lambda: program.said("vm.started") == 1, program.tail)
        assert program.rss_mib() < 90


def test_the_agent_does_not_load_what_the_control_plane_needs():
    heavy = "{'sqlalchemy', 'litestar', 'cedarpy', 'uvicorn', 'alembic', 'cyclopts', 'nacre.control', 'nacre.cli'}"
    code = f"import sys, nacre.agent.main; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == ""


def test_guests_are_healed_without_any_control_plane():
    intent = vm_intent()
    with agent() as program:
        program.want(intent)
        program.start()
        wait_for(lambda: program.said("vm.started") == 1, program.tail)
        kill(program.pids()[0])
        wait_for(lambda: program.said("vm.started") == 2, program.tail)
        assert len(program.pids()) == 1


def test_two_agents_never_share_a_directory():
    with agent() as program:
        program.start()
        done = briefly(str(program.config))
        assert done.returncode == 1
        assert "already" in done.stderr


def test_settings_that_cannot_be_used_are_said_in_a_line_and_a_hint(tmp_path):
    config = tmp_path / "agent.toml"
    config.write_text('data_dri = "/x"\n')
    done = briefly(str(config))
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["nacre-agent: there is no setting 'data_dri'", "  did you mean data_dir?"]


def briefly(config: str) -> subprocess.CompletedProcess[str]:
    """An agent that should leave by itself."""
    argv = [sys.executable, "-m", "nacre.agent.main", "--config", config]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30)


def test_metrics_are_served_where_the_settings_say():
    port = free_port()
    with agent(metrics_listen=f"127.0.0.1:{port}") as program:
        program.want(vm_intent())
        program.start()
        wait_for(lambda: program.said("vm.started") == 1, program.tail)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
        assert 'nacre_agent_vms{phase="running"} 1' in text
        assert "nacre_agent_link_up 0" in text
        assert 'nacre_agent_steps_total{step="start",outcome="done"} 1' in text


def test_a_damaged_record_costs_nothing_but_its_memory():
    intent = vm_intent()
    with agent() as program:
        program.want(intent)
        program.start()
        wait_for(lambda: program.said("vm.started") == 1, program.tail)
        (pid,) = program.pids()
        program.kill()
        (program.root / "data/records" / f"{intent.id}.json").write_bytes(b"{half a rec")
        program.start()
        wait_for(lambda: program.said("vm.adopted") == 1, program.tail)
        assert program.pids() == [pid]
        record = program.record(intent.id)
        assert record is not None
        assert msgspec.json.encode(record.run)

"""`nacre down --vms`: the guests of an agent that does not run are stopped, and would be started again."""

import subprocess
import sys

from nacre.model.vms import ExitReason
from support.agents import agent, wait_for
from support.intents import vm_intent


def stop(config: str, timeout: str = "5") -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "nacre.agent.guests", "--config", config, "--timeout", timeout]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_guests_are_asked_then_switched_off_and_run_again_with_the_next_agent():
    intents = [vm_intent(), vm_intent(kernel_args="fake.deaf")]
    with agent() as program:
        program.want(*intents)
        program.start()
        wait_for(lambda: program.said("vm.started") == 2, program.tail)
        program.terminate()
        done = stop(str(program.config), "0.5")
        assert done.returncode == 0, done.stderr
        assert sorted(done.stdout.splitlines()) == sorted(f"stopped {intent.name}" for intent in intents)
        assert program.pids() == []
        reasons = [program.record(intent.id).run.info.exit_reason for intent in intents]  # type: ignore[union-attr]
        assert reasons == [ExitReason.STOPPED, ExitReason.KILLED]
        program.start()
        wait_for(lambda: program.said("vm.started") == 4, program.tail)


def test_nothing_is_stopped_while_the_agent_runs():
    with agent() as program:
        program.want(vm_intent())
        program.start()
        wait_for(lambda: program.said("vm.started") == 1, program.tail)
        done = stop(str(program.config))
        assert done.returncode == 1
        assert "already" in done.stderr
        assert len(program.pids()) == 1


def test_where_there_are_no_guests_nothing_happens():
    with agent() as program:
        done = stop(str(program.config))
        assert (done.returncode, done.stdout) == (0, "")

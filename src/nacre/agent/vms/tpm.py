"""The TPM of a machine: swtpm, one process for each life, its state in the machine's folder. Called by the recipes.

It is there before the hypervisor and ends by itself when the hypervisor lets go of it, so it outlives the agent with
its machine and never the machine. One that nobody has connected to, because the agent died in between, is known by the
lock that it holds, and ended by whoever starts or deletes the machine, or finds it off.
"""

import os
import shutil
import subprocess
from pathlib import Path

import structlog

from nacre.agent.host import locks
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.vms.host import Host
from nacre.lib import processes
from nacre.lib.threads import in_thread
from nacre.model.convergence import FailureClass
from nacre.model.ids import VmId

PROGRAM = "swtpm"
STATE = "tpm"
LOCK = "tpm.lock"
SOCKET = "tpm.sock"
_START_S = 10.0

log = structlog.get_logger()


async def start(vm: VmId, host: Host) -> Path:
    """Return the socket of a new process that has the machine's state. Raises DriverError and OSError."""
    await end(vm, host)
    state = host.place(vm) / STATE
    state.mkdir(mode=0o700, exist_ok=True)
    lock = locks.take(host.place(vm) / LOCK)
    try:
        await in_thread(_run, state, host.run_place(vm) / SOCKET, host.place(vm) / f"{STATE}.log", lock)
    finally:
        os.close(lock)
    for pid, _ in await in_thread(locks.holders, host.place(vm) / LOCK):
        # Beside its hypervisor, or a service manager that stops the agent would end it.
        await in_thread(host.cgroups.add, vm, pid, 0)
    return host.run_place(vm) / SOCKET


async def end(vm: VmId, host: Host) -> None:
    """Return when there is no such process of the machine, whose hypervisor is gone. May be repeated."""
    lock = host.place(vm) / LOCK
    if not lock.exists() or locks.is_free(lock):
        return
    for pid, started in await in_thread(locks.holders, lock):
        if await processes.kill(pid, started):
            log.info("tpm.ended", vm=vm, pid=pid)
    if not locks.is_free(lock):
        raise DriverError(
            "tpm_in_use",
            "a process that emulates the machine's TPM cannot be ended",
            hint="on the node, `fuser` on the file tpm.lock of the machine names it; it is tried again by itself",
        )


def _run(state: Path, socket: Path, log_file: Path, lock: int) -> None:
    """Start it. It goes to the background once its socket is there, and keeps the lock open."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise DriverError(
            "tpm_missing",
            "nothing emulates the machine's TPM on this node",
            hint="install swtpm on the node (Debian, Ubuntu: apt-get install swtpm)",
            failure_class=FailureClass.BLOCKED,
        )
    words = [program, "socket", "--tpm2", "--daemon", "--terminate", "--tpmstate", f"dir={state},mode=0600"]
    words += ["--ctrl", f"type=unixio,path={socket},mode=0600", "--log", f"file={log_file},truncate"]
    try:
        done = subprocess.run(
            words, pass_fds=[lock], stdin=subprocess.DEVNULL, capture_output=True, timeout=_START_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _failed() from error
    if done.returncode or not socket.exists():
        log.warning("tpm.failed", said=done.stderr.decode(errors="replace")[-500:])
        raise _failed()


def _failed() -> DriverError:
    return DriverError(
        "tpm_failed",
        "the program that emulates the machine's TPM does not start on this node",
        hint="the agent's log and tpm.log in the machine's folder on the node say more; it is tried again by itself",
    )

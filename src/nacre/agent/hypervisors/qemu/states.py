"""What QEMU's words mean: run states, events, last lines on stderr. Pure. Used by `guest` and `driver`.

Run states and events: QEMU's QAPI schema (run-state.json, block-core.json).
"""

import re

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.ports import refusal
from nacre.model.convergence import FailureClass
from nacre.model.vms import PublishedPort, TransportProtocol

_RUN_STATES = {
    "running": GuestState.RUNNING,
    "suspended": GuestState.RUNNING,  # the guest sleeps by its own will
    "paused": GuestState.PAUSED,
    "debug": GuestState.PAUSED,
    "prelaunch": GuestState.STARTING,
    "inmigrate": GuestState.STARTING,
    "restore-vm": GuestState.STARTING,
    "save-vm": GuestState.RUNNING,
    "finish-migrate": GuestState.RUNNING,
    "postmigrate": GuestState.PAUSED,
    "colo": GuestState.RUNNING,
    "shutdown": GuestState.SHUT_DOWN,
    "io-error": GuestState.FAILED,
    "internal-error": GuestState.HALTED,
    "guest-panicked": GuestState.HALTED,
    "watchdog": GuestState.HALTED,
}
_FAILURES = {
    "io-error": "a disk of the machine cannot be written or read; it was paused to lose nothing",
    "internal-error": "QEMU met an error inside itself and stopped the machine",
    "guest-panicked": "the guest's kernel panicked",
    "watchdog": "the guest's watchdog ran out",
}
_LOG_HINT = "the node keeps QEMU's own words in hypervisor.log in the machine's directory"

_FORWARD = re.compile(r"Could not set up host forwarding rule '(tcp|udp):([\d.]*):(\d+)-[^:]*:(\d+)'")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+Z\s*")
_PROGRAM = re.compile(r"^[\w./-]*qemu-system-\w+: ")
_PATH = re.compile(r"(?:/[^\s/:,'\"]+)+/([^\s/:,'\"]+)")


def state_of(run_state: str) -> GuestState:
    """Translate a run state; an unknown one is a guest that does not run as it should."""
    return _RUN_STATES.get(run_state, GuestState.HALTED)


def failure_detail(run_state: str) -> str:
    """Say what a failed run state means."""
    return _FAILURES.get(run_state, f"QEMU reports the state {run_state}")


def io_error_detail(*, node: str, operation: str, no_space: bool) -> str:
    """Say what a stopped disk means."""
    verb = "written" if operation == "write" else "read"
    why = "the node's storage is full" if no_space else "the node's storage reports an error"
    return f"disk {node or 'of the machine'} cannot be {verb}: {why}; the machine is paused and can be resumed"


def last_words(text: str) -> str:
    """Return the last line of stderr that says what went wrong, without the places of files on this host."""
    lines = [_STAMP.sub("", line).strip() for line in text.splitlines()]
    lines = [line for line in lines if line and "warning:" not in line]
    return without_places(_PROGRAM.sub("", lines[-1])) if lines else ""


def without_places(text: str) -> str:
    """Return what QEMU says without where files are on this host."""
    return _PATH.sub(r"\1", text)[:300]


def start_failure(text: str, status: int | None) -> DriverError:
    """Turn what QEMU wrote before it gave up into an error. `status` as in `Process.exit_status`."""
    if found := _FORWARD.search(text):
        protocol, address, host_port, guest_port = found.groups()
        port = PublishedPort(
            protocol=TransportProtocol(protocol),
            host_address=address or "0.0.0.0",  # noqa: S104  # QEMU's own word for every address
            host_port=int(host_port),
            guest_port=int(guest_port),
        )
        return refusal(port, None)
    words = last_words(text) or f"status {status}"
    for pattern, code, message, hint, failure_class in _KNOWN:
        if pattern.search(text):
            return DriverError(code, f"{message}: {words}", hint=hint, failure_class=failure_class)
    return DriverError("hypervisor_start_failed", f"QEMU ended before it answered: {words}", hint=_LOG_HINT)


def killed_early() -> DriverError:
    """Return the error for a process that somebody killed before the guest went on in it: what it read is sound."""
    return DriverError(
        "hypervisor_killed",
        "QEMU was killed before the machine went on in it",
        hint="it is tried again; has the node run out of memory?",
    )


_KNOWN = (
    (
        re.compile(
            r"failed to initialize (kvm|hvf|xen)|Could not access KVM|kvm_buf_set_msrs|KVM_RUN failed|ioctl\(KVM"
        ),
        "accelerator_failed",
        "the accelerator does not work",
        "machines are started without it from now on; `nacre node show` says why",
        FailureClass.TRANSIENT,
    ),
    (
        re.compile(r"annot set up guest memory|annot allocate memory|Out of memory"),
        "memory_exhausted",
        "the node has not enough free memory for the machine",
        "stop other machines on the node, or give this one less memory",
        FailureClass.TRANSIENT,
    ),
    (
        re.compile(r'Failed to get "(write|shared "?write|consistent read)"? ?lock|Failed to lock byte'),
        "disk_in_use",
        "another process uses the machine's disk",
        "end what uses it on the node (`fuser` names it)",
        FailureClass.TRANSIENT,
    ),
    (
        re.compile(
            r"could not load kernel|linux kernel too old|invalid (kernel )?header|Error loading uncompressed kernel"
        ),
        "kernel_unusable",
        "the image's kernel cannot be booted",
        "import the image again with a bzImage kernel for x86_64",
        FailureClass.PERMANENT,
    ),
    (
        re.compile(r"Could not open|not in (qcow2|vmdk|vpc) format|could not load initrd"),
        "disk_unusable",
        "a disk or kernel file of the machine cannot be opened",
        _LOG_HINT,
        FailureClass.TRANSIENT,
    ),
)

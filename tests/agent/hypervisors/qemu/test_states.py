"""QEMU's words, translated."""

import pytest

from nacre.agent.hypervisors.base import GuestState
from nacre.agent.hypervisors.qemu import states
from nacre.model.convergence import FailureClass

STAMP = "2026-11-21T10:00:00.000000Z "


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("running", GuestState.RUNNING),
        ("paused", GuestState.PAUSED),
        ("shutdown", GuestState.SHUT_DOWN),
        ("io-error", GuestState.FAILED),
        ("guest-panicked", GuestState.HALTED),
        ("watchdog", GuestState.HALTED),
        ("internal-error", GuestState.HALTED),
        ("prelaunch", GuestState.STARTING),
        ("something-new", GuestState.HALTED),
    ],
)
def test_run_states(word: str, state: GuestState) -> None:
    assert states.state_of(word) is state


def test_last_words_have_no_paths_no_time_and_no_warnings() -> None:
    text = (
        f"{STAMP}qemu-system-x86_64: -blockdev x: Could not open '/secret/place/root.qcow2': Permission denied\n"
        f"{STAMP}qemu-system-x86_64: warning: netdev n0 has no peer\n"
    )
    assert states.last_words(text) == "-blockdev x: Could not open 'root.qcow2': Permission denied"
    assert states.last_words("") == ""


@pytest.mark.parametrize(
    ("text", "code", "failure_class"),
    [
        (
            "-netdev user,id=n: Could not set up host forwarding rule 'tcp:127.0.0.1:8080-:80'",
            "port_in_use",
            FailureClass.TRANSIENT,
        ),
        ("error: failed to set MSR 0x10a\nkvm.c:3183: kvm_buf_set_msrs: Assertion failed.", "accelerator_failed", None),
        ("-accel kvm: failed to initialize kvm: No such file or directory", "accelerator_failed", None),
        ("cannot set up guest memory 'pc.ram': Cannot allocate memory", "memory_exhausted", FailureClass.TRANSIENT),
        ('-device virtio-blk: Failed to get "write" lock', "disk_in_use", FailureClass.TRANSIENT),
        ("qemu: could not load kernel '/x/y': Invalid kernel header", "kernel_unusable", FailureClass.PERMANENT),
        ("-blockdev x: Could not open '/x/root.qcow2': No such file", "disk_unusable", FailureClass.TRANSIENT),
        ("Segmentation fault", "hypervisor_start_failed", FailureClass.TRANSIENT),
        ("", "hypervisor_start_failed", FailureClass.TRANSIENT),
    ],
)
def test_a_failed_start_is_explained(text: str, code: str, failure_class: FailureClass | None) -> None:
    error = states.start_failure(f"{STAMP}qemu-system-x86_64: {text}", 1)
    assert error.code == code
    assert failure_class in {None, error.failure_class}
    assert error.hint
    assert "/x/" not in error.message


def test_a_refused_port_is_named() -> None:
    error = states.start_failure("Could not set up host forwarding rule 'udp::5353-:53'", 1)
    assert "udp port 5353 on 0.0.0.0" in error.message


def test_a_stopped_disk_is_explained() -> None:
    assert "full" in states.io_error_detail(node="root", operation="write", no_space=True)
    assert "read" in states.io_error_detail(node="", operation="read", no_space=False)

"""What Cloud Hypervisor's refusals and last words mean."""

import pytest

from nacre.agent.hypervisors.cloud_hypervisor import api
from nacre.agent.hypervisors.cloud_hypervisor.api import refusal, start_failure
from nacre.lib.unix_http import Answer
from nacre.model.convergence import FailureClass

HEAD = "Error from API"


@pytest.mark.parametrize(
    ("status", "chain", "code", "failure_class"),
    [
        (500, ["The VM could not be paused", "VM is not running"], "wrong_state", FailureClass.TRANSIENT),
        (
            500,
            ["x", "Invalid transition: InvalidStateTransition(Paused, Paused)"],
            "wrong_state",
            FailureClass.TRANSIENT,
        ),
        (404, ["The VM info is not available", "VM is not created"], "wrong_state", FailureClass.TRANSIENT),
        (500, ["The VM could not be created", "VM is already created"], "wrong_state", FailureClass.TRANSIENT),
        (404, ["The VM could not boot", "VM config is missing"], "wrong_state", FailureClass.TRANSIENT),
        (500, ["x", "Trying to snapshot while VM is running"], "wrong_state", FailureClass.TRANSIENT),
        (500, ["x", "VM is currently migrating"], "machine_moving", FailureClass.TRANSIENT),
        (500, ["x", "There is already an ongoing migration"], "machine_moving", FailureClass.TRANSIENT),
        (429, ["Too Many Requests"], "hypervisor_busy", FailureClass.TRANSIENT),
        (404, ["x", "Missing device id: d1"], "device_unknown", FailureClass.PERMANENT),
        (409, ["x", "Identifier d1 is not unique"], "device_exists", FailureClass.PERMANENT),
        (500, ["x", "Cannot open disk path: /data/vms/a/root.qcow2", "gone"], "disk_unusable", FailureClass.TRANSIENT),
        (500, ["x", "Cannot allocate memory (os error 12)"], "memory_exhausted", FailureClass.TRANSIENT),
        (500, ["x", "Failed to lock disk image"], "disk_in_use", FailureClass.TRANSIENT),
        (500, ["x", "Failed to open tap device"], "nic_unusable", FailureClass.TRANSIENT),
        (400, ["x", "Max CPUs (1) lower than boot CPUs (2)"], "config_refused", FailureClass.PERMANENT),
        (500, ["x", "something new"], "hypervisor_refused", FailureClass.TRANSIENT),
    ],
)
def test_refusals(status, chain, code, failure_class):
    found = refusal("vm.boot", Answer(status, [HEAD, *chain]))
    assert found.code == code
    assert found.failure_class is failure_class
    assert found.hint
    assert "vm.boot" in found.message
    assert "/data" not in found.message


@pytest.mark.parametrize(
    ("body", "reasons"),
    [
        ([HEAD, "a", "b"], ["a", "b"]),
        ("VM is not running", ["VM is not running"]),
        ({"error": "one\nand two"}, ["one\nand two"]),
        (None, []),
        ("", []),
    ],
)
def test_reasons_come_in_several_shapes(body, reasons):
    assert api.reasons_of(body) == reasons
    assert refusal("vm.boot", Answer(500, body)).message


def test_places_of_files_are_not_told():
    found = refusal("vm.boot", Answer(500, [HEAD, "cannot read /data/vms/vm-1/root.qcow2\nnow"]))
    assert found.message == "Cloud Hypervisor refused vm.boot: cannot read root.qcow2 now"


def test_why_it_did_not_start():
    found = start_failure("Error: Cloud Hypervisor exited with the following error:\n  ApiSocketInUse\n", 1)
    assert found.code == "hypervisor_start_failed"
    assert "ApiSocketInUse" in found.message
    assert "status 1" in start_failure("", 1).message
    without = start_failure("Error: Failed to open hypervisor interface: /dev/kvm: No such file or directory", 1)
    assert without.code == "accelerator_failed"
    assert without.failure_class is FailureClass.BLOCKED

"""What Firecracker says, and what people are told of it."""

import pytest

from nacre.agent.hypervisors.firecracker import refusals
from nacre.model.convergence import FailureClass

SAID = {
    "The requested operation is not supported before starting the microVM.": "wrong_state",
    "The requested operation is not supported after starting the microVM.": "wrong_state",
    "PCI is not enabled": "hotplug_unavailable",
    "Device ID in use": "device_in_use",
    "Balloon update error: Failed perform action on device: Device not found": "device_not_found",
    "Cannot unplug root device": "device_in_use",
    "Network config error: The MAC address is already in use: 52:4e:00:00:00:01": "mac_in_use",
    "Network config error: Could not create the network device: Open tap device failed: Error while creating ifreq "
    "structure: Resource busy (os error 16). Invalid TUN/TAP Backend provided by tap0.": "tap_unavailable",
    "Drive config error: Unable to create the virtio block device: Virtio backend error: Error manipulating the "
    "backing file: No such file or directory (os error 2) /srv/x": "disk_unavailable",
    "Boot source error: The kernel file cannot be opened: No such file or directory (os error 2)": "kernel_unavailable",
    "Start microvm error: Cannot load kernel due to invalid memory configuration or invalid kernel image: x": (
        "kernel_unsupported"
    ),
    "Balloon config error: Amount of pages requested is too large.": "balloon_too_large",
    "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while "
    "running": "not_paused",
    "Load snapshot error: Failed to restore from snapshot: Failed to get snapshot state from file: Failed to open "
    "snapshot file: No such file or directory (os error 2)": "checkpoint_unusable",
    "Start microvm error: Kvm error: Error creating KVM object: /dev/kvm": "hypervisor_unavailable",
    "An error occurred when deserializing the json body of a request: unknown field `x`": "hypervisor_refused",
    "something new": "hypervisor_refused",
}


@pytest.mark.parametrize(("text", "code"), SAID.items())
def test_each_refusal_has_a_meaning(text, code):
    error = refusals.meaning(400, text)
    assert error.code == code
    assert error.hint


def test_statuses_that_mean_something_do_so_whatever_is_said():
    assert refusals.meaning(503, "Device not found").code == "hypervisor_busy"
    assert refusals.meaning(503, "").failure_class is FailureClass.TRANSIENT
    assert refusals.meaning(413, "").code == "metadata_too_large"


@pytest.mark.parametrize("text", SAID)
def test_nothing_that_it_says_is_passed_on(text):
    error = refusals.meaning(400, text)
    assert text not in error.message
    assert "os error" not in error.message + error.hint
    assert "/srv" not in error.message + error.hint


@pytest.mark.parametrize("each", refusals.TABLE, ids=lambda each: each.words)
def test_no_meaning_rests_on_the_words_of_the_system(each):
    assert "os error" not in each.words
    assert "No such" not in each.words
    assert "in use" not in each.words or each.words in {"Device ID in use", "MAC address is already in use"}


def test_exit_codes_are_explained_where_they_can_be():
    assert "system call" in refusals.end(148)
    assert refusals.end(0) == refusals.end(1) == refusals.end(None) == refusals.end(-9) == ""

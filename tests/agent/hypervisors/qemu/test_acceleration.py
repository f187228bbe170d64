"""Acceleration is trusted only after a kernel has printed."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nacre.agent.hypervisors.base import CanProbeAcceleration
from nacre.agent.hypervisors.qemu import acceleration
from nacre.agent.hypervisors.qemu.acceleration import Candidate, Choice, Verdict, Verdicts, choose
from nacre.agent.hypervisors.qemu.driver import BINARY, QemuHypervisor
from support.guests import tiny_image
from support.waiting import until

pytestmark = pytest.mark.anyio

KVM = Candidate("kvm", Path("/dev/kvm"))
TCG = Candidate("tcg", None)


@pytest.fixture
def device(tmp_path):
    path = tmp_path / "device"
    path.touch()
    return Candidate("kvm", path)


def children() -> int:
    return sum(child.name().startswith("qemu") for child in psutil.Process().children())


def test_the_proven_accelerator_is_chosen_and_what_fails_says_why():
    good, bad = Verdict(key="k", works=True), Verdict(key="k", works=False, reason="no kernel printed")
    assert choose([(KVM, "", good)]) == Choice("kvm")
    assert choose([(KVM, "", bad)]) == Choice("tcg", "kvm: no kernel printed")
    assert choose([(KVM, "kvm: no device", None)]) == Choice("tcg", "kvm: no device")
    assert "not proven" in choose([(KVM, "", None)]).reason
    assert choose([]).reason
    assert choose([(KVM, "", bad), (TCG, "", good)]) == Choice("tcg", "kvm: no kernel printed")


def test_a_verdict_holds_for_one_version_one_device_and_one_boot(tmp_path, device, monkeypatch):
    verdicts = Verdicts(tmp_path / "state")
    assert verdicts.find(device, "7.2.0") is None
    verdicts.save(device, "7.2.0", works=True)
    assert Verdicts(tmp_path / "state").find(device, "7.2.0").works
    assert verdicts.find(device, "8.0.0") is None
    with monkeypatch.context() as patch:
        patch.setattr("nacre.lib.processes.boot_id", lambda: "another")
        assert verdicts.find(device, "7.2.0") is None
    device.device.unlink()
    device.device.with_name("new").touch()
    device.device.with_name("new").rename(device.device)
    assert verdicts.find(device, "7.2.0") is None


def test_a_damaged_file_of_verdicts_is_as_good_as_none(tmp_path, device):
    (tmp_path / "acceleration.json").write_text('{"kvm": ')
    verdicts = Verdicts(tmp_path)
    assert verdicts.find(device, "1") is None
    verdicts.save(device, "1", works=False, reason="x")
    assert verdicts.find(device, "1").reason == "x"


def test_a_device_that_is_missing_or_forbidden_is_not_tried(tmp_path, device, monkeypatch):
    assert acceleration.obstacle(device) == ""
    assert "has no" in acceleration.obstacle(Candidate("kvm", tmp_path / "nothing"))
    monkeypatch.setattr(Path, "open", lambda *_, **__: (_ for _ in ()).throw(PermissionError()))
    assert "may not open" in acceleration.obstacle(device)


@pytest.mark.host
async def test_a_kernel_that_prints_proves_its_accelerator_and_leaves_nothing():
    assert await acceleration.prove(BINARY, "tcg", tiny_image().kernel, time_limit=30) == ""
    assert children() == 0


@pytest.mark.host
async def test_a_kernel_that_prints_nothing_is_given_up_after_the_time_limit(tmp_path):
    at = time.monotonic()
    reason = await acceleration.prove(BINARY, "tcg", tiny_image().kernel, time_limit=0.2)
    assert "no kernel printed" in reason
    assert time.monotonic() - at < 10
    assert children() == 0


@pytest.mark.host
async def test_what_is_no_kernel_is_told_in_qemu_s_words(tmp_path):
    (tmp_path / "kernel").write_bytes(b"no kernel" * 1000)
    reason = await acceleration.prove(BINARY, "tcg", tmp_path / "kernel")
    assert reason.startswith("QEMU gave up")
    assert str(tmp_path) not in reason


@pytest.mark.host
async def test_the_driver_proves_once_remembers_and_falls_back_with_a_reason(tmp_path, monkeypatch):
    """With the real device of this host: where it boots nothing the verdict is no, where it works it is yes."""
    if acceleration.obstacle(KVM):
        pytest.skip(acceleration.obstacle(KVM))
    driver = QemuHypervisor(state_directory=tmp_path, candidates=(KVM,))
    assert isinstance(driver, CanProbeAcceleration)
    before = await driver.probe()
    assert before.accelerator == "tcg"
    assert "not proven" in before.reason
    await asyncio.gather(*(driver.prove_acceleration(tiny_image().kernel) for _ in range(2)))
    after = await driver.probe()
    assert after.accelerator in {"kvm", "tcg"}
    assert bool(after.reason) == (after.accelerator == "tcg")
    assert "not proven" not in after.reason
    assert "prove-acceleration" in after.abilities

    async def never(*_):
        raise AssertionError("proved twice")

    monkeypatch.setattr(acceleration, "prove", never)
    again = QemuHypervisor(state_directory=tmp_path, candidates=(KVM,))
    await again.prove_acceleration(tiny_image().kernel)
    assert (await again.probe()).reason == after.reason
    assert children() == 0


@pytest.mark.host
async def test_an_accelerator_that_works_is_used(tmp_path):
    driver = QemuHypervisor(state_directory=tmp_path, candidates=(TCG,))
    await driver.prove_acceleration(tiny_image().kernel)
    info = await driver.probe()
    assert (info.accelerator, info.reason) == ("tcg", "")


@pytest.mark.host
async def test_a_proof_does_not_outlive_the_agent(tmp_path):
    """A kernel that hangs under a broken accelerator would do so for ever."""
    kernel = tmp_path / "kernel"
    kernel.symlink_to(tiny_image().kernel)
    code = f"""
import asyncio
from pathlib import Path
from nacre.agent.hypervisors.qemu import acceleration
acceleration.FIRST_LINE = b"never printed"
asyncio.run(acceleration.prove({BINARY!r}, "tcg", Path({str(kernel)!r}), time_limit=60))
"""
    agent = await asyncio.create_subprocess_exec(sys.executable, "-c", code)

    def running():
        return subprocess.run(["pgrep", "-f", "--", f"-kernel {kernel}"], capture_output=True).stdout

    await until(running)
    agent.kill()
    await agent.wait()
    await until(lambda: not running())

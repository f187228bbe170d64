"""What the driver makes of what is installed, and of what it is given."""

import os
from pathlib import Path

import pytest

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.firecracker.driver import FirecrackerHypervisor
from nacre.agent.hypervisors.launch import Confinement
from nacre.model.capabilities import Capability, offers
from nacre.model.convergence import FailureClass
from support.machines import Bench
from support.vmm.installed import install

pytestmark = pytest.mark.anyio


@pytest.fixture
async def bench():
    made = Bench()
    (made.root / "kvm").touch()
    (made.root / "vmlinux").write_bytes(b"\x7fELF")
    (made.root / "vmlinuz").write_bytes(b"MZ..")
    yield made
    await made.close()


def driver(bench: Bench, **options) -> FirecrackerHypervisor:
    programs = install(bench.root / "bin", firecracker="firecracker")
    basis = {"binary": str(programs / "firecracker"), "jailer": "/nowhere/jailer", "kvm": bench.root / "kvm"}
    return FirecrackerHypervisor(state_directory=bench.root / "state", **(basis | options))


async def failure(awaitable) -> DriverError:
    with pytest.raises(DriverError) as caught:
        await awaitable
    assert caught.value.hint
    return caught.value


async def test_what_is_not_installed_is_not_available_and_says_how_to_install_it(bench):
    info = await driver(bench, binary="no-firecracker-here").probe()
    assert not info.available
    assert "not installed" in info.reason
    assert "release" in info.reason


async def test_a_host_without_kvm_runs_no_machines(bench):
    info = await driver(bench, kvm=Path("/nowhere/kvm")).probe()
    assert not info.available
    assert "KVM" in info.reason
    assert info.version == "1.17.0"


async def test_the_version_is_asked_again_when_the_binary_has_changed(bench, monkeypatch):
    one = driver(bench)
    assert (await one.probe()).version == "1.17.0"
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.16.2")
    assert (await one.probe()).version == "1.17.0"
    os.utime(bench.root / "bin" / "firecracker", ns=(1, 1))
    assert (await one.probe()).version == "1.16.2"


@pytest.mark.parametrize(("version", "words"), [("1.4.9", "too old"), ("odd", "does not run")])
async def test_a_binary_that_is_of_no_use_is_not_available(bench, monkeypatch, version, words):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", version)
    info = await driver(bench).probe()
    assert not info.available
    assert words in info.reason


async def test_the_offer_is_that_of_the_release_and_the_host(bench, monkeypatch):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.13.0")
    found = await driver(bench).offer()
    assert not offers(found, Capability.MEMORY_ADD)
    assert not offers(found, Capability.CONFINED)
    found = await driver(bench, jailer="/bin/true").offer()
    assert offers(found, Capability.CONFINED)


async def test_a_compressed_kernel_takes_a_release_that_unpacks_it(bench, monkeypatch):
    launch = bench.launch(kernel=bench.root / "vmlinuz", nics=())
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.16.0")
    error = await failure(driver(bench).start(launch))
    assert error.failure_class is FailureClass.PERMANENT
    assert "vmlinux" in error.hint
    assert list(launch.run_directory.iterdir()) == []
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.17.0")
    bench.keep(await driver(bench).start(launch))


async def test_a_confined_machine_needs_a_jailer_and_a_folder(bench):
    jail = Confinement(uid=1000, gid=1000, jail=bench.root / "jail")
    basis = {"kernel": bench.root / "vmlinux", "nics": ()}
    error = await failure(driver(bench).start(bench.launch(confinement=jail, **basis)))
    assert error.code == "jailer_missing"
    with_jailer = driver(bench, jailer="/bin/true")
    nowhere = bench.launch(confinement=Confinement(uid=1000, gid=1000), **basis)
    assert (await failure(with_jailer.start(nowhere))).code == "jail_missing"


async def test_a_path_that_is_too_long_is_said_before_anything_is_made(bench):
    deep = bench.root / ("d" * 100)
    deep.mkdir()
    launch = bench.launch(kernel=bench.root / "vmlinux", nics=(), run_directory=deep)
    assert (await failure(driver(bench).start(launch))).code == "path_too_long"
    assert list(deep.iterdir()) == []


async def test_a_process_that_ends_at_once_is_an_error_that_says_why_if_that_is_known(bench, monkeypatch):
    launch = bench.launch(kernel=bench.root / "vmlinux", nics=())
    one = driver(bench)
    await one.probe()
    program = bench.root / "bin" / "firecracker"
    stamp = program.stat()
    program.write_text("#!/bin/sh\nexit 148\n".ljust(stamp.st_size))
    os.utime(program, ns=(stamp.st_mtime_ns, stamp.st_mtime_ns))
    error = await failure(one.start(launch))
    assert error.code == "hypervisor_start_failed"
    assert "system call" in error.message
    assert list(launch.run_directory.iterdir()) == []


async def test_kvm_is_proven_by_a_kernel_once_and_the_verdict_is_kept(bench):
    assert "not proven" in (await driver(bench).probe()).reason
    await driver(bench).prove_acceleration(bench.root / "vmlinux")
    told = await driver(bench).probe()
    assert told.available
    assert "not proven" not in told.reason
    assert "prove-acceleration" in told.abilities
    await driver(bench).prove_acceleration(Path("/nowhere"))


@pytest.mark.parametrize(("kvm", "kernel", "words"), [("dead", "vmlinux", "first line"), ("", "none", "gave up")])
async def test_where_kvm_runs_no_guests_none_is_started(bench, monkeypatch, kvm, kernel, words):
    monkeypatch.setenv("NACRE_STAND_IN_KVM", kvm)
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.proof.prove.__defaults__", (1.5,))
    monkeypatch.setattr("nacre.agent.hypervisors.firecracker.driver._is_compressed", lambda _: False)
    await driver(bench).prove_acceleration(bench.root / kernel)
    told = await driver(bench).probe()
    assert not told.available
    assert words in told.reason
    assert str(bench.root) not in told.reason
    launch = bench.launch(kernel=bench.root / "vmlinux", nics=())
    error = await failure(driver(bench).start(launch))
    assert error.code == "accelerator_failed"
    assert error.failure_class is FailureClass.BLOCKED
    assert list(launch.run_directory.iterdir()) == []


async def test_a_kernel_that_the_release_cannot_boot_proves_nothing(bench, monkeypatch):
    monkeypatch.setenv("NACRE_STAND_IN_VERSION", "1.16.0")
    await driver(bench).prove_acceleration(bench.root / "vmlinuz")
    assert "not proven" in (await driver(bench).probe()).reason

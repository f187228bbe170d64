"""The validator of requests finds what is wrong: whatever is dropped, renamed or added in a good one."""

import copy
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nacre.agent.hypervisors.cloud_hypervisor import config
from nacre.agent.hypervisors.launch import DiskFile, Launch, TapNic, VhostUserDisk
from nacre.model.hardware import (
    Balloon,
    CpuOptions,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.ids import RunId, VmId
from nacre.model.units import GIB, MIB
from nacre.model.vms import MachineType
from support.vmm import specification
from support.vmm.specification import Specification

LIMITS = RateLimits(bandwidth=TokenBucket(size=100, burst=1), operations=TokenBucket(size=7))
FULL = Launch(
    vm=VmId("vm-01m7ysnyghpha2pa88yjx222cp"),
    run=RunId("run-01m7ysnyghpha2pa88yjx222cp"),
    name="web-1",
    machine=MachineType.Q35,
    cpus=2,
    memory_bytes=512 * MIB,
    directory=Path("/data/vms/vm-1"),
    run_directory=Path("/run/nacre/x"),
    lock_fd=9,
    kernel=Path("/cache/kernel"),
    initrd=Path("/cache/initrd"),
    kernel_args="console=ttyS0 quiet",
    disks=(
        DiskFile(
            id="root", path=Path("/d"), format="qcow2", options=DiskOptions(direct=True, limits=LIMITS, pci_segment=1)
        ),
        DiskFile(id="slow", path=Path("/s"), format="raw", options=DiskOptions(limit_group="slow")),
        VhostUserDisk(id="far", socket=Path("/run/far.sock")),
    ),
    nics=(
        TapNic(
            id="nic0",
            mac="52:4e:00:00:00:01",
            device="t0",
            options=NicOptions(
                mtu=1500, host_mac="52:4e:00:00:00:02", iommu=True, receive_limits=LIMITS, send_limits=LIMITS
            ),
        ),
    ),
    limit_groups=(LimitGroup(name="slow", limits=LIMITS),),
    cpu=CpuOptions(max=4, topology=CpuTopology(cores=4), hyperv=True),
    memory=MemoryOptions(
        max_bytes=GIB, hugepage_bytes=2 * MIB, shared=True, prefault=True, balloon=Balloon(reclaim_bytes=MIB)
    ),
    devices=DeviceOptions(watchdog=WatchdogAction.RESET, panic=True, tpm=True),
    tpm_socket=Path("/run/tpm.sock"),
)
CREATE = ("PUT", "/api/v1/vm.create")


@pytest.fixture
def document() -> Specification:
    found = specification.find("cloud-hypervisor")
    if found is None:
        pytest.skip("the API document of Cloud Hypervisor is not here (NACRE_SPECS)")
    return found


def test_everything_that_a_launch_can_ask_for_is_in_keeping_with_the_document(document):
    assert document.problems(*CREATE, config.build(FULL)) == []
    cells = (NumaCell(cpus="0", memory_bytes=256 * MIB), NumaCell(cpus="1", memory_bytes=256 * MIB, host_nodes="0"))
    assert document.problems(*CREATE, config.build(replace(FULL, numa=cells, memory=MemoryOptions()))) == []


def objects(value: object) -> Iterator[dict[str, object]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from objects(each)
    elif isinstance(value, list):
        for each in value:
            yield from objects(each)


@pytest.mark.parametrize("seed", range(60))
def test_a_field_that_is_renamed_or_added_anywhere_is_found(document, seed):
    body = copy.deepcopy(config.build(FULL))
    choice = random.Random(seed)
    place = choice.choice(list(objects(body)))
    name = choice.choice(list(place))
    if seed % 2:
        place[f"{name}s"] = place.pop(name)
    else:
        place["surprise"] = 1
    assert document.problems(*CREATE, body)


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((), "payload"),
        (("cpus",), "boot_vcpus"),
        (("cpus",), "max_vcpus"),
        (("memory",), "size"),
        (("rng",), "src"),
        (("serial",), "mode"),
        (("console",), "mode"),
        (("balloon",), "size"),
        (("tpm",), "socket"),
        (("rate_limit_groups", 0), "id"),
        (("disks", 0, "rate_limiter_config", "bandwidth"), "refill_time"),
    ],
)
def test_a_field_that_is_needed_and_dropped_is_found(document, place, name):
    body = copy.deepcopy(config.build(FULL))
    target = body
    for step in place:
        target = target[step]
    del target[name]
    assert any(f"{name} is missing" in problem for problem in document.problems(*CREATE, body))


@pytest.mark.parametrize("seed", range(40))
def test_a_value_of_another_kind_is_found(document, seed):
    body = copy.deepcopy(config.build(FULL))
    choice = random.Random(seed)
    place = choice.choice([each for each in objects(body) if each])
    name = choice.choice(list(place))
    place[name] = {"not": "this"} if not isinstance(place[name], dict) else "nor this"
    assert document.problems(*CREATE, body)


def test_values_out_of_range_and_unknown_words_are_found(document):
    body = config.build(FULL)
    assert document.problems(*CREATE, body | {"serial": {"mode": "Sockets"}})
    assert document.problems(*CREATE, body | {"cpus": {"boot_vcpus": 0, "max_vcpus": 1}})
    assert document.problems(*CREATE, body | {"cpus": {"boot_vcpus": True, "max_vcpus": 1}})


def test_calls_that_are_none_are_found(document):
    assert document.problems("PUT", "/api/v1/vm.explode", None)
    assert document.problems("GET", "/api/v1/vm.create", None)
    assert document.problems("PUT", "/api/v1/vm.create", None)
    assert document.problems("PUT", "/api/v1/vm.boot", {})
    assert document.problems("PUT", "/api/v1/vm.boot", None) == []
    assert ("PUT", "/api/v1/vm.boot") in document.operations()


USED = {
    *("vmm.ping", "vmm.shutdown", "vm.info", "vm.counters", "vm.create", "vm.boot", "vm.pause", "vm.resume"),
    *("vm.reboot", "vm.power-button", "vm.resize", "vm.resize-disk", "vm.add-disk", "vm.add-net", "vm.remove-device"),
    *("vm.snapshot", "vm.restore", "vm.receive-migration", "vm.send-migration"),
}
NOT_USED = {
    "vm.delete": "a machine ends with its process",
    "vm.shutdown": "a machine ends with its process",
    "vm.resize-zone": "machines with several memory nodes keep their size",
    "vm.add-device": "devices of the host are not passed through",
    "vm.add-user-device": "devices of the host are not passed through",
    "vm.add-vdpa": "devices of the host are not passed through",
    "vm.add-fs": "there are no shared folders",
    "vm.add-generic-vhost-user": "disks and NICs have calls of their own",
    "vm.add-pmem": "disks are block devices",
    "vm.add-vsock": "guests have no channel yet",
    "vm.coredump": "only in builds for debugging",
    "vm.nmi": "nobody asks for it",
}


def test_every_call_is_used_or_left_alone_for_a_reason(document):
    known = {path.rpartition("/")[2] for _, path in document.operations()}
    assert known == USED | set(NOT_USED)
    folder = Path(config.__file__).parent
    named = {call for path in folder.glob("*.py") for call in re.findall(r'"(vmm?\.[a-z-]+)"', path.read_text())}
    assert named == USED


def test_without_the_document_there_is_nothing_to_check(monkeypatch, tmp_path):
    monkeypatch.setenv("NACRE_SPECS", str(tmp_path))
    assert specification.find.__wrapped__("cloud-hypervisor") is None

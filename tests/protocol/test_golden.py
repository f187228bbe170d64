"""The bytes of every message, committed: a change in `model` cannot change the wire without being seen here.

`golden/<tag>.msgpack` is what is sent, `golden/<tag>.json` the same for readers. When a change is meant, and says so
in the history of `protocol/version.py`, write them anew: NACRE_WRITE_GOLDEN=1 pytest tests/protocol/test_golden.py
"""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from nacre.model.arrivals import ArrivingVolume, Room, VmArrival
from nacre.model.capabilities import Level, Offered
from nacre.model.checkpoints import (
    CheckpointIntent,
    CheckpointObserved,
    CheckpointSource,
    Restoration,
)
from nacre.model.consistency import Consistency
from nacre.model.convergence import Failure, FailureClass
from nacre.model.copies import CopyObserved, CopyRef, RetiredVm
from nacre.model.guests import CloudInit, GuestAddress, GuestFilesystem, GuestInfo, SeedRef
from nacre.model.hardware import (
    Balloon,
    BootOptions,
    ConsoleMode,
    CpuOptions,
    CpuPin,
    CpuTopology,
    DeviceOptions,
    DiskOptions,
    Firmware,
    Graphics,
    HotplugMethod,
    LimitGroup,
    MemoryOptions,
    NicOptions,
    NumaCell,
    RateLimits,
    TokenBucket,
    WatchdogAction,
)
from nacre.model.ids import ImageId, NodeId, ProjectId, RunId, StreamId, VmId
from nacre.model.images import Artifact, Format, ImageManifest, Role
from nacre.model.migrations import (
    ArrivalObserved,
    ArrivalState,
    Outgoing,
    OutgoingObserved,
    SendState,
)
from nacre.model.nodes import (
    BlockDevice,
    Capacity,
    Condition,
    ConditionKind,
    HostNic,
    HugePages,
    HypervisorInfo,
    Inventory,
    NodeFacts,
    NumaNode,
    PciDevice,
    Usage,
)
from nacre.model.placement import (
    AffinityTerm,
    NodePreference,
    Placement,
    SpreadConstraint,
    Strategy,
    TaintEffect,
    Toleration,
    Topology,
    Weights,
)
from nacre.model.vms import (
    Desired,
    ExitReason,
    HaPolicy,
    InForce,
    MachineType,
    NicSpec,
    Phase,
    PublishedPort,
    RestartPolicy,
    RunInfo,
    TransportProtocol,
    VmIntent,
    VmObserved,
    VmSpec,
)
from nacre.model.volumes import Wish
from nacre.protocol import codec
from nacre.protocol.messages import (
    ArtifactHeader,
    DesiredState,
    Enrol,
    Enrolled,
    FromAgent,
    FromControl,
    GetArtifact,
    Heartbeat,
    HeldVm,
    Hello,
    NodeIntent,
    Observed,
    ObservedAck,
    OpenStream,
    Pull,
    Refused,
    Renew,
    Renewed,
    Rotate,
    Rotated,
    StreamHeader,
    StreamKind,
    Wake,
    Welcome,
)
from support.wire_volumes import ATTACHMENT, CHECKPOINT, POOL_INTENT, POOL_SEEN, VOLUME, VOLUME_INTENT, VOLUME_SEEN

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.get("NACRE_WRITE_GOLDEN") == "1"

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
NODE = NodeId("node-01hzzzzzzzzzzzzzzzzzzzzzzz")
VM = VmId("vm-01hzzzzzzzzzzzzzzzzzzzzzzz")
IMAGE = ImageId("img-01hzzzzzzzzzzzzzzzzzzzzzzz")
PORT = PublishedPort(guest_port=80, host_port=8080, host_address="0.0.0.0", protocol=TransportProtocol.UDP)
USAGE = Usage(load1=1.25, memory_bytes=1 << 30, disk_bytes=1 << 40)
CONDITION = Condition(kind=ConditionKind.DISK_PRESSURE, message="little room", hint="make room", since=AT)
FACTS = NodeFacts(
    hostname="alpha",
    os="Debian GNU/Linux 12",
    kernel="6.1.0",
    architecture="x86_64",
    agent_version="0.1.0",
    boot_id="2f0c7f3c-0000-4000-8000-000000000000",
    capacity=Capacity(cpus=8, memory_bytes=16 << 30, disk_bytes=1 << 40),
    hypervisors=(
        HypervisorInfo(
            name="qemu",
            available=True,
            reason="kvm does not boot a guest here",
            version="7.2.0",
            accelerator="tcg",
            machines=("q35", "pc", "microvm"),
            abilities=("prove-acceleration",),
            offer=(Offered(level=Level.NEEDS_GUEST, capabilities=("cpu.add",), note="it must bring them online"),),
        ),
    ),
    labels={"rack": "a1"},
    region="eu",
    zone="eu-1",
    streams=("exec",),
    inventory=Inventory(
        cpu_model="Some CPU",
        cpu_cores=4,
        cpu_threads=8,
        cpu_flags="0123456789abcdef",
        numa=(NumaNode(id=0, cpus="0-7", memory_bytes=1 << 34),),
        huge_pages=(HugePages(size_bytes=1 << 21, total=16),),
        disks=(BlockDevice(name="sda", wwn="0x5000c500a1b2c3d4", model="Disk", size_bytes=1 << 40, rotational=True),),
        devices=(
            PciDevice(
                address="0000:01:00.0", kind="gpu", vendor="10de", device="2204", driver="vfio-pci", iommu_group=7
            ),
        ),
        nics=(
            HostNic(
                name="eth0", mac="52:54:00:00:00:01", mtu=1500, up=True, speed_mbps=10000, addresses=("192.0.2.1",)
            ),
        ),
    ),
)
PLACEMENT = Placement(
    node_labels={"disk": "ssd"},
    regions=("eu",),
    zones=("eu-1", "eu-2"),
    tolerations=(Toleration(key="gpu", value="yes", effect=TaintEffect.NO_SCHEDULE),),
    prefer=(NodePreference(labels={"rack": "a1"}, weight=70),),
    affinity=(AffinityTerm(labels={"app": "db"}, topology=Topology.ZONE, required=False, weight=10),),
    anti_affinity=(AffinityTerm(labels={"app": "web"}, topology=Topology.REGION, required=False, weight=20),),
    spread=(SpreadConstraint(labels={"app": "web"}, topology=Topology.REGION, max_skew=2, required=True),),
    strategy=Strategy.WEIGHTED,
    weights=Weights(locality=1.5, reliability=2.5, cost=3.5, utilization=4.5, network=5.5),
)
LIMITS = RateLimits(
    bandwidth=TokenBucket(size=1 << 20, refill_ms=500, burst=1 << 22),
    operations=TokenBucket(size=100, refill_ms=200, burst=50),
)
CPU = CpuOptions(
    max=8,
    model="EPYC-v4",
    topology=CpuTopology(threads=2, cores=2, dies=2, packages=3),
    pins=(CpuPin(cpu=1, host_cpus="0-3,8"),),
    hyperv=True,
)
MEMORY = MemoryOptions(
    max_bytes=2 << 30,
    hotplug=HotplugMethod.VIRTIO_MEM,
    hugepage_bytes=2 << 20,
    shared=True,
    mergeable=True,
    prefault=True,
    thp=False,
    balloon=Balloon(reclaim_bytes=64 << 20, deflate_on_oom=False, free_page_reporting=True),
)
NUMA = (NumaCell(cpus="0-7", memory_bytes=1 << 30, host_nodes="1"),)
DISK = DiskOptions(
    read_only=True,
    direct=True,
    queues=4,
    queue_size=256,
    serial="S1",
    pci_segment=1,
    limits=LIMITS,
    limit_group="slow",
)
NIC = NicSpec(
    mac="52:4e:00:00:00:01",
    options=NicOptions(
        mtu=9000,
        queues=2,
        queue_size=512,
        tso=False,
        ufo=False,
        checksum=False,
        host_mac="52:4e:00:00:00:02",
        iommu=True,
        pci_segment=1,
        receive_limits=LIMITS,
        send_limits=LIMITS,
    ),
)
GROUPS = (LimitGroup(name="slow", limits=LIMITS),)
DEVICES = DeviceOptions(
    serial=ConsoleMode.FILE,
    console=ConsoleMode.SOCKET,
    rng="/dev/hwrng",
    watchdog=WatchdogAction.RESET,
    tpm=True,
    graphics=Graphics.VNC,
    guest_agent=False,
    panic=True,
)
BOOT = BootOptions(firmware=Firmware.UEFI, secure_boot=True)
SPEC = VmSpec(
    image=IMAGE,
    hypervisor="qemu",
    machine=MachineType.MICROVM,
    cpus=2,
    memory_bytes=1 << 30,
    disk_bytes=10 << 30,
    kernel_args="quiet",
    nics=(NIC,),
    publish=(PORT,),
    restart=RestartPolicy.ALWAYS,
    stop_timeout_s=12.5,
    placement=PLACEMENT,
    ha=HaPolicy.RESTART,
    priority=200,
    preemptible=True,
    cpu=CPU,
    memory=MEMORY,
    numa=NUMA,
    root_disk=DISK,
    limit_groups=GROUPS,
    devices=DEVICES,
    boot=BOOT,
    cloud_init=SeedRef(digest="00ff", parts=("user_data",), hostname="web-1", user="ann"),
)
MANIFEST = ImageManifest(
    id=IMAGE,
    artifacts=(
        Artifact(role=Role.DISK, format=Format.QCOW2, size_bytes=123, sha256="ab" * 32, virtual_size_bytes=10 << 30),
        Artifact(role=Role.KERNEL, format=Format.RAW, size_bytes=456, sha256="cd" * 32, virtual_size_bytes=456),
    ),
    kernel_args="console=ttyS0",
)
STREAM_ID = StreamId("str-01hzzzzzzzzzzzzzzzzzzzzzzz")
VM_INTENT = VmIntent(
    id=VM,
    project=ProjectId("prj-01hzzzzzzzzzzzzzzzzzzzzzzz"),
    name="web",
    generation=7,
    desired=Desired.RUNNING,
    spec=SPEC,
    image=MANIFEST,
    reboot_nonce=3,
    reset_nonce=2,
    force_stop=True,
    fence=4,
    volumes=(ATTACHMENT,),
    seed=CloudInit(
        user_data="#cloud-config",
        meta_data={"role": "web"},
        network_config="version: 2",
        hostname="web-1",
        user="ann",
        ssh_keys=("ssh-ed25519 AAAA",),
        password_hash="$6$salt$hash",
        identity="2",
        random_seed="AAAA",
    ),
    checkpoints=(CheckpointIntent(id=CHECKPOINT, desired=Wish.ABSENT, after=1, memory=True, volumes=(VOLUME,)),),
    restore=Restoration(nonce=2, checkpoint=CHECKPOINT, memory=True),
    source=CheckpointSource(vm=VM, checkpoint=CHECKPOINT),
    outgoing=Outgoing(
        stream=STREAM_ID,
        target=NodeId("node-01hzzzzzzzzzzzzzzzzzzzzzzz"),
        addresses=("10.0.0.5:7490",),
        bandwidth_bytes=1 << 20,
        downtime_ms=500,
    ),
    arrived_by=STREAM_ID,
)
INTENT = NodeIntent(
    vms=(VM_INTENT,),
    images=(IMAGE,),
    teardown_allowed=True,
    tenure=2,
    arrivals=(
        VmArrival(
            stream=STREAM_ID,
            source=NodeId("node-01hzzzzzzzzzzzzzzzzzzzzzzz"),
            vm=VM_INTENT,
            volumes=(ArrivingVolume(id=VOLUME, name="data", pool=POOL_INTENT.id),),
            room=Room(cpus=2, memory_bytes=1 << 30, disk_bytes=8 << 30),
        ),
    ),
    retired=(RetiredVm(id=VM, fence=3),),
    discard=(CopyRef(id=VM, fence=1),),
    pools=(POOL_INTENT,),
    volumes=(VOLUME_INTENT,),
)
RUN = RunInfo(
    id=RunId("run-01hzzzzzzzzzzzzzzzzzzzzzzz"),
    started_at=AT,
    accelerator="tcg",
    accelerator_reason="kvm does not boot a guest here",
    cpus=2,
    memory_bytes=1 << 30,
    publish=(PORT,),
    guarded=True,
    confined=True,
    volumes=(VOLUME,),
    hotplug=True,
    config=InForce(
        least_cpus=1,
        least_memory_bytes=1 << 29,
        disk_bytes=10 << 30,
        nics=(NIC,),
        cpu=CPU,
        memory=MEMORY,
        numa=NUMA,
        root_disk=DISK,
        limit_groups=GROUPS,
        devices=DEVICES,
        boot=BOOT,
        refused=("root_disk.limits",),
    ),
    seed="00ff",
    exited_at=AT + timedelta(seconds=9),
    exit_reason=ExitReason.CRASHED,
    exit_detail="signal 9",
)
FAILURE = Failure(
    failure_class=FailureClass.TRANSIENT,
    code="process_died",
    message="the process died",
    hint="it is started again",
    generation=7,
    at=AT,
    attempts=2,
    next_try_at=AT + timedelta(seconds=1),
)
SEEN = VmObserved(
    outgoing=OutgoingObserved(
        stream=STREAM_ID,
        state=SendState.FAILED,
        transferred_bytes=5,
        remaining_bytes=6,
        downtime_ms=7.5,
        message="the line broke",
    ),
    arriving=ArrivalObserved(stream=STREAM_ID, state=ArrivalState.READY, addresses=("10.0.0.5:7490",), message="-"),
    id=VM,
    generation=7,
    phase=Phase.CRASHED,
    since=AT,
    run=RUN,
    reboot_nonce=3,
    reset_nonce=2,
    restarts=4,
    failure=FAILURE,
    fence=4,
    guest=GuestInfo(
        answering=False,
        agent_version="7.2",
        hostname="web-1",
        os="Debian",
        kernel="6.1",
        addresses=(
            GuestAddress(address="10.0.2.15", prefix=24, interface="eth0", mac="52:4e:00:00:00:01", nic="nic0"),
        ),
        filesystems=(GuestFilesystem(mountpoint="/", type="ext4", total_bytes=4096),),
        booted_at=AT,
        seen_at=AT,
    ),
    restore_nonce=2,
    checkpoints=(
        CheckpointObserved(
            id=CHECKPOINT,
            taken_at=AT,
            consistency=Consistency.MEMORY,
            size_bytes=2 << 30,
            disk_bytes=1 << 30,
            memory_bytes=4096,
            failure=FAILURE,
        ),
    ),
)

FROM_AGENT: tuple[FromAgent, ...] = (
    Enrol(token="secret", csr_pem="-----BEGIN CERTIFICATE REQUEST-----", name="alpha"),
    Hello(newest=1, oldest=1, node=NODE, instance="run-1", facts=FACTS, sent_at=AT),
    Heartbeat(sent_at=AT, usage=USAGE, conditions=(CONDITION,), facts=FACTS),
    Renew(sequence=3, tenure=2),
    Pull(digest="00ff"),
    Observed(
        sequence=12,
        digest="00ff",
        complete=True,
        vms=(SEEN,),
        held=(HeldVm(id=VM, name="stray", running=True, since=AT),),
        images=(IMAGE,),
        copies=(CopyObserved(id=VM, fence=1, exists=True, size_bytes=4096, since=AT),),
        volumes=(VOLUME_SEEN,),
        pools=(POOL_SEEN,),
    ),
    Rotate(csr_pem="-----BEGIN CERTIFICATE REQUEST-----"),
    StreamHeader(ok=False, code="vm_not_here", message="no such machine", hint="look elsewhere"),
    GetArtifact(image=IMAGE, role=Role.INITRD, offset=1 << 33),
)
FROM_CONTROL: tuple[FromControl, ...] = (
    Enrolled(node=NODE, certificate_pem="-----BEGIN CERTIFICATE-----", roots_pem="-----BEGIN CERTIFICATE-----"),
    Welcome(version=1, heartbeat_s=5.0, resync_s=30.0, server_time=AT, lease_s=35.0, renew_s=2.0),
    Refused(code="node_removed", message="gone", hint="enrol again", retryable=True),
    Renewed(sequence=3, granted=True),
    Wake(),
    DesiredState(digest="00ff", intent=INTENT),
    ObservedAck(sequence=12),
    Rotated(certificate_pem="-----BEGIN CERTIFICATE-----", roots_pem="-----BEGIN CERTIFICATE-----"),
    OpenStream(
        stream=StreamId("str-01hzzzzzzzzzzzzzzzzzzzzzzz"),
        kind=StreamKind.CONSOLE_LOG,
        vm=VM,
        address="replica-2.example:7481",
        tail_bytes=4096,
    ),
    ArtifactHeader(ok=True, size_bytes=1 << 33, code="c", message="m", hint="h"),
)


def tag(message: FromAgent | FromControl) -> str:
    """What the message is called on the wire."""
    name = message.__struct_config__.tag
    assert isinstance(name, str)
    return name


@pytest.mark.parametrize("message", [*FROM_AGENT, *FROM_CONTROL], ids=tag)
def test_a_message_is_encoded_to_the_bytes_it_has_always_been(message: FromAgent | FromControl) -> None:
    frame = codec.encode(message)
    path = GOLDEN / f"{tag(message)}.msgpack"
    if WRITE:
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(frame)
        path.with_suffix(".json").write_bytes(msgspec.json.format(msgspec.json.encode(message), indent=2) + b"\n")
    assert msgspec.msgpack.decode(frame) == msgspec.msgpack.decode(path.read_bytes())  # says what differs
    assert frame == path.read_bytes()


@pytest.mark.parametrize("message", FROM_AGENT, ids=tag)
def test_the_bytes_of_an_agent_are_read_back(message: FromAgent) -> None:
    assert codec.decode_from_agent((GOLDEN / f"{tag(message)}.msgpack").read_bytes()) == message


@pytest.mark.parametrize("message", FROM_CONTROL, ids=tag)
def test_the_bytes_of_the_control_plane_are_read_back(message: FromControl) -> None:
    assert codec.decode_from_control((GOLDEN / f"{tag(message)}.msgpack").read_bytes()) == message


def test_every_message_has_a_golden_file_and_every_golden_file_a_message() -> None:
    assert {type(message) for message in FROM_AGENT} == set(get_args(FromAgent))
    assert {type(message) for message in FROM_CONTROL} == set(get_args(FromControl))
    known = {tag(message) for message in (*FROM_AGENT, *FROM_CONTROL)}
    assert {path.stem for path in GOLDEN.iterdir()} == known


def test_no_field_is_left_at_its_default_so_that_every_field_is_in_the_bytes() -> None:
    """A field added with a default and forgotten here would not be guarded."""
    told_by_their_size = {(NicSpec, "network"), (VmSpec, "hypervisor")}  # have one value so far, or a usual one

    def walk(value: object) -> list[str]:
        if isinstance(value, tuple):
            return [found for item in value for found in walk(item)]
        if not isinstance(value, msgspec.Struct):
            return []
        found: list[str] = []
        for field in msgspec.structs.fields(value):
            content = getattr(value, field.name)
            if not field.required and content == field.default and (type(value), field.name) not in told_by_their_size:
                found.append(f"{type(value).__name__}.{field.name}")
            found += walk(content)
        return found

    assert walk((*FROM_AGENT, *FROM_CONTROL)) == []


def test_a_message_of_a_newer_peer_with_more_fields_is_still_read() -> None:
    raw = msgspec.msgpack.decode((GOLDEN / "pull.msgpack").read_bytes())
    assert codec.decode_from_agent(msgspec.msgpack.encode({**raw, "added_later": 1})) == Pull(digest="00ff")


def test_the_digest_of_a_desired_state_is_what_it_has_always_been() -> None:
    path = GOLDEN / "desired.msgpack"
    message = codec.decode_from_control(path.read_bytes())
    assert isinstance(message, DesiredState)
    assert message.intent is not None
    assert codec.digest(message.intent) == codec.digest(INTENT)
    assert codec.digest(INTENT) != codec.digest(NodeIntent())
    assert codec.digest(NodeIntent()) == "7c2b19e96994d88dde86704ad686c972"

"""What QEMU, or one of its boards, cannot do: refused before anything is started, with what to do instead. Pure."""

from collections.abc import Callable

from nacre.agent.hypervisors.errors import DriverError
from nacre.agent.hypervisors.launch import Launch, MacvtapNic, TapNic, VhostUserDisk, VhostUserNic
from nacre.agent.hypervisors.qemu.command_line.places import MAX_SOCKET_PATH, socket_paths
from nacre.agent.hypervisors.qemu.command_line.refusal import refused
from nacre.agent.hypervisors.qemu.command_line.surroundings import Surroundings
from nacre.model.convergence import FailureClass
from nacre.model.hardware import Graphics
from nacre.model.units import MIB
from nacre.model.vms import MachineType

# Below this a microvm prints nothing and hangs for ever.
MICROVM_MIN_MEMORY = 112 * MIB

_OTHER_BOARD = "use the machine type q35"

Rule = tuple[Callable[[Launch], bool], str, str, str]
"""Whether it forbids a launch; and the code, the message and the hint if so."""


def check(launch: Launch, qemu: Surroundings) -> None:
    """Raise DriverError for what cannot be done."""
    if any(len(str(path).encode()) > MAX_SOCKET_PATH for path in socket_paths(launch.run_directory)):
        raise DriverError(
            "path_too_long",
            "the path of the machine's sockets is longer than the system allows",
            hint="give the agent a shorter run_dir in its configuration",
            failure_class=FailureClass.BLOCKED,
        )
    rules = _RULES
    if launch.machine is MachineType.MICROVM:
        rules += _MICROVM
    if not qemu.linux:
        rules += _NOT_LINUX
    for forbids, code, message, hint in rules:
        if forbids(launch):
            raise refused(code, message, hint)


def _grows(launch: Launch) -> bool:
    return (launch.memory.max_bytes or 0) > launch.memory_bytes


def _cpus_grow(launch: Launch) -> bool:
    return (launch.cpu.max or launch.cpus) > launch.cpus


def _topology_differs(launch: Launch) -> bool:
    topology = launch.cpu.topology
    return topology is not None and topology.cpus != (launch.cpu.max or launch.cpus)


def _served_by_others(launch: Launch) -> bool:
    return any(isinstance(disk, VhostUserDisk) for disk in launch.disks) or any(
        isinstance(nic, VhostUserNic) for nic in launch.nics
    )


def _lacks_group(launch: Launch) -> bool:
    names = {group.name for group in launch.limit_groups}
    return any(disk.options.limit_group and disk.options.limit_group not in names for disk in launch.disks)


def _secure(launch: Launch) -> bool:
    return launch.firmware is not None and launch.firmware.secure_boot


_RULES: tuple[Rule, ...] = (
    (
        _topology_differs,
        "topology_mismatch",
        "the topology of the CPUs does not have as many of them as the machine",
        "make threads x cores x dies x packages the number of CPUs that there may be at most",
    ),
    (
        lambda launch: (
            (launch.cpu.max or launch.cpus) < launch.cpus
            or (launch.memory.max_bytes or launch.memory_bytes) < launch.memory_bytes
        ),
        "maximum_too_small",
        "the machine has more CPUs or memory than it may have at most",
        "raise the maximum, or leave it out",
    ),
    (
        lambda launch: _served_by_others(launch) and not launch.memory.shared,
        "shared_memory_needed",
        "a disk or NIC of the machine is served by another process (vhost-user), which must see the guest's memory",
        "set the machine's memory to shared",
    ),
    (
        lambda launch: not launch.memory.thp and launch.memory.hugepage_bytes is None,
        "thp_fixed",
        "QEMU always lets the host use transparent huge pages for a machine",
        "leave thp on, or set it for the whole node in /sys/kernel/mm/transparent_hugepage",
    ),
    (
        _lacks_group,
        "limit_group_unknown",
        "a disk of the machine is in a group of limits that the machine does not have",
        "define the group, or leave it out",
    ),
    (
        lambda launch: launch.devices.tpm and launch.tpm_socket is None,
        "tpm_missing",
        "nothing emulates the machine's TPM on this node",
        "install swtpm on the node",
    ),
    (
        lambda launch: _secure(launch) and launch.machine is not MachineType.Q35,
        "secure_boot_unsupported",
        "secure boot needs the machine type q35, whose firmware can protect its variables",
        _OTHER_BOARD,
    ),
)
_MICROVM: tuple[Rule, ...] = (
    (
        lambda launch: launch.memory_bytes < MICROVM_MIN_MEMORY,
        "memory_too_small",
        f"a microvm needs at least {MICROVM_MIN_MEMORY // MIB} MiB of memory",
        f"give it more memory, or {_OTHER_BOARD}",
    ),
    (
        lambda launch: _grows(launch) or _cpus_grow(launch),
        "resize_unsupported",
        "a microvm cannot get CPUs or memory while it runs",
        _OTHER_BOARD,
    ),
    (lambda launch: bool(launch.numa), "numa_unsupported", "a microvm has one memory node", _OTHER_BOARD),
    (
        lambda launch: launch.firmware is not None,
        "uefi_unsupported",
        "a microvm does not start by UEFI",
        _OTHER_BOARD,
    ),
    (
        lambda launch: launch.devices.graphics is not Graphics.NONE,
        "graphics_unsupported",
        "a microvm has no screen",
        _OTHER_BOARD,
    ),
    (
        lambda launch: launch.devices.watchdog is not None or launch.devices.tpm or launch.devices.panic,
        "device_unsupported",
        "a microvm has no watchdog, TPM or panic device",
        _OTHER_BOARD,
    ),
    (
        lambda launch: any(nic.options.iommu for nic in launch.nics),
        "iommu_unsupported",
        "a microvm has no IOMMU",
        _OTHER_BOARD,
    ),
)
_NOT_LINUX: tuple[Rule, ...] = (
    (
        lambda launch: (
            launch.memory.shared
            or launch.memory.hugepage_bytes is not None
            or any(cell.host_nodes is not None for cell in launch.numa)
        ),
        "memory_unsupported",
        "memory is shared, in huge pages or bound to nodes of the host on Linux only",
        "leave these out, or place the machine on a node with Linux",
    ),
    (
        lambda launch: any(isinstance(nic, TapNic | MacvtapNic) for nic in launch.nics),
        "network_unsupported",
        "machines are connected to networks of the node on Linux only",
        "use user-mode networking, or place the machine on a node with Linux",
    ),
    (
        lambda launch: bool(launch.cpu.pins),
        "pinning_unsupported",
        "CPUs are pinned on Linux only",
        "leave the pins out, or place the machine on a node with Linux",
    ),
    (
        _secure,
        "secure_boot_unsupported",
        "secure boot needs a CPU mode that macOS does not give to machines",
        "place the machine on a node with Linux",
    ),
)
